"""Loading a folder of image files, with the split that it comes with or a seeded one.

The class of an image is the folder it lies in, whatever a list says. The parts are, by what is there,

* lists: PACS's ``<domain>_train_kfold.txt`` and ``<domain>_crossval_kfold.txt``, DomainNet's
  ``<domain>_train.txt`` and ``<domain>_test.txt``;
* folders inside the domain: ``test`` is the test part, or ``val`` or ``crossval`` where there is no ``test``;
  the others are the train part; of ``full``, which repeats them, only what is in none of them, and nothing
  where there is a ``train``;
* CORe50: the last frames of each object's video are the test part;
* else a share of each (class, domain) cell, drawn with a seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .benchmarks import CORE50_CATEGORIES, CORE50_HARD, VLCS, Benchmark, recognise
from .checks import check_resolution, checked_dataset
from .dataset import DomainDataset
from .errors import DataError
from .findings import Findings
from .layouts import ImageItem, Layout, read_layout
from .names import chosen_names, plain_name
from .read_files import ReadProgress, read_files
from .splits import find_lists, read_lists, stratified_split

DEFAULT_TEST_SHARE = 0.2


def load_folder(
    path: str | Path,
    resolution: int | None = None,
    domains: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    *,
    progress: ReadProgress | None = None,
    pack_into: Path | None = None,
) -> DomainDataset:
    """The images below `path` as one dataset; domains and classes are numbered in natural order of their
    names.

    Args:
        resolution: side in pixels to resize to. None takes that of the benchmark the folder is recognised as,
            else the images' own size, which must then be the same for all.
        domains: the domains to load; None loads all.
        classes: the classes to load; None loads all.
        seed: seed of the split that is made where the data come without one. It takes the benchmark's share
            of each (class, domain) cell for the test part, or 20 %.
        progress: called with the files decoded and to be decoded; not where all are known already.
        pack_into: the folder where the decoded images are kept; None: the cache, see `data.cache`.

    What is odd or was repaired is in the dataset's `warnings`. Raises DataError naming the files that cannot
    be used.
    """
    path = Path(path)
    check_resolution(resolution)
    layout = read_layout(path)
    warnings = list(layout.warnings)
    is_core50 = all(re.fullmatch(r"s\d+", name) for name in layout.domains) and all(
        re.fullmatch(r"o([1-9]|[1-4]\d|50)", name) for name in layout.class_folders
    )
    benchmark = CORE50_HARD if is_core50 else recognise(layout.domains, layout.class_folders)
    named = _class_of_folder(layout, benchmark, warnings)

    domain_names = chosen_names("domain", layout.domains, domains, str(path))
    class_names = chosen_names("class", list(dict.fromkeys(named.values())), classes, str(path))
    items = [item for item in layout.items if item.domain in domain_names]
    listed = _read_split_lists(path, layout, items, domain_names, warnings)
    items = [
        item
        for item in items
        if named[item.class_folder] in class_names and (listed is None or _list_key(item) in listed)
    ]
    if listed is None:
        items = _without_repetitions(items)
    if not items:
        raise DataError(f"{path} holds no image of the chosen domains and classes")
    class_number = {folder: class_names.index(name) for folder, name in named.items() if name in class_names}
    domain_number = {name: number for number, name in enumerate(domain_names)}
    labels = torch.tensor([class_number[item.class_folder] for item in items])
    numbers = torch.tensor([domain_number[item.domain] for item in items])
    if listed is not None:
        is_test = torch.tensor([listed[_list_key(item)] for item in items])
    else:
        share = benchmark.test_share if benchmark else DEFAULT_TEST_SHARE
        drawn = (
            _last_frames(items, share)
            if is_core50
            else stratified_split(labels, numbers, class_names, domain_names, share, seed)
        )
        is_test = _by_part_folders(items, domain_names, drawn, share, is_core50, warnings)
    if resolution is None and benchmark is not None:
        resolution = benchmark.resolution
        warnings.append(
            f"by its names this is {benchmark.name}, so the images are resized to {resolution} x "
            f"{resolution}; choose a resolution if it is not"
        )
    findings = Findings()
    images = read_files(path, items, resolution, findings, progress, pack_into)
    warnings += findings.notes()
    dataset = DomainDataset(
        name=plain_name(path.resolve().name),
        images=images,
        labels=labels,
        domains=numbers,
        is_test=is_test,
        class_names=tuple(class_names),
        domain_names=tuple(domain_names),
        item_names=tuple(item.name for item in items),
    )
    return checked_dataset(dataset, warnings, str(path))


def _class_of_folder(layout: Layout, benchmark: Benchmark | None, warnings: list[str]) -> dict[str, str]:
    """The class name of every class folder."""
    if benchmark is CORE50_HARD:
        return {folder: CORE50_CATEGORIES[(int(folder[1:]) - 1) // 5] for folder in layout.class_folders}
    if benchmark is VLCS and all(folder.isdigit() for folder in layout.class_folders):
        warnings.append(f"the class folders 0..4 are named {', '.join(VLCS.classes)}, as VLCS numbers them")
        return {folder: VLCS.classes[int(folder)] for folder in layout.class_folders}
    return {folder: folder for folder in layout.class_folders}


def _list_key(item: ImageItem) -> str:
    return f"{item.domain}/{_listed_name(item)}"


def _listed_name(item: ImageItem) -> str:
    """As the lists of a domain name it: class/file."""
    return f"{item.class_folder}/{item.name.rpartition('/')[2]}"


def _read_split_lists(
    path: Path, layout: Layout, items: Sequence[ImageItem], domain_names: Sequence[str], warnings: list[str]
) -> dict[str, bool] | None:
    """For every listed image that is there, whether it belongs to the test part; None where there are no
    lists.
    """
    lists = {
        domain: found for domain in domain_names if (found := find_lists(layout.texts, domain)) is not None
    }
    if not lists:
        return None
    without = [domain for domain in domain_names if domain not in lists]
    if without:
        raise DataError(
            f"{path} has no lists for the domain {without[0]!r} but for others; add them, or remove the "
            "lists for a seeded split"
        )
    listed: dict[str, bool] = {}
    counting_from_one, other_order = [], []
    for domain, found in lists.items():
        read = read_lists(*found, domain, layout.class_folders)
        there = {_listed_name(item) for item in items if item.domain == domain}
        usable = {item: is_test for item, is_test in read.is_test.items() if item in there}
        if not usable:
            raise DataError(f"{found[0]} lists no image that is below {path}; are the lists of these data?")
        listed |= {f"{domain}/{item}": is_test for item, is_test in usable.items()}
        for what, found_items in (
            ("listed images that are not there", sorted(read.is_test.keys() - there)),
            ("images in no list, left out", sorted(there - read.is_test.keys() - set(read.doubtful))),
            ("images whose number in the list contradicts their folder, left out", read.doubtful),
        ):
            if found_items:
                warnings.append(
                    f"domain {domain!r}: {what}: {len(found_items)}, for example {found_items[0]}"
                )
        if read.first_number == 1:
            counting_from_one.append(domain)
        elif read.first_number is None:
            other_order.append(domain)
    last = len(layout.class_folders) - 1
    if counting_from_one:
        warnings.append(
            f"the lists of {', '.join(counting_from_one)} count the classes from 1; the labels are "
            f"0..{last}, by folder"
        )
    if other_order:
        warnings.append(
            f"the lists of {', '.join(other_order)} number the classes in another way; the labels are "
            f"0..{last}, in order of the folder names"
        )
    return listed


def _without_repetitions(items: Sequence[ImageItem]) -> list[ImageItem]:
    """Leaves out ``full`` folders in domains that have ``train``, elsewhere what they repeat by class and
    file: an image of ``test`` must not be trained on."""
    with_train = {item.domain for item in items if item.part == "train"}
    elsewhere = {_list_key(item) for item in items if item.part != "full"}
    return [
        item
        for item in items
        if item.part != "full" or (item.domain not in with_train and _list_key(item) not in elsewhere)
    ]


def _by_part_folders(
    items: Sequence[ImageItem],
    domain_names: Sequence[str],
    drawn: Tensor,
    share: float,
    is_core50: bool,
    warnings: list[str],
) -> Tensor:
    """bool [N]: the test parts by folder where a domain has two or more part folders, else as `drawn`."""
    testing: dict[str, str | None] = {}
    for domain in domain_names:
        parts = {item.part for item in items if item.domain == domain}
        candidates = [part for part in ("test", "val", "crossval") if part in parts]
        testing[domain] = candidates[0] if candidates and len(parts) > 1 else None
    is_test = [
        item.part == testing[item.domain] if testing[item.domain] else was_drawn
        for item, was_drawn in zip(items, drawn.tolist(), strict=True)
    ]
    without = [domain for domain, part in testing.items() if part is None]
    if without:
        which = "" if len(without) == len(domain_names) else f" in {', '.join(without)}"
        rule = (
            "the last frames of each video" if is_core50 else "drawn from each class and domain with a seed"
        )
        warnings.append(f"no split comes with the data{which}; the test part is {share:.0%}, {rule}")
    return torch.tensor(is_test)


def _last_frames(items: Sequence[ImageItem], share: float) -> Tensor:
    """bool [N]: the last `share` of the frames of every (session, object); `items` are in order of their
    frames.
    """
    videos: dict[tuple[str, str], list[int]] = {}
    for row, item in enumerate(items):
        videos.setdefault((item.domain, item.class_folder), []).append(row)
    is_test = torch.zeros(len(items), dtype=torch.bool)
    for rows in videos.values():
        is_test[rows[len(rows) - round(share * len(rows)) :]] = True
    return is_test
