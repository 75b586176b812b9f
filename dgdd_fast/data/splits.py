"""The train and test part of each domain: drawn with a seed, or read from lists."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import read_file
from ..messages import shown
from ..seeds import generator
from .benchmarks import name_key
from .errors import DataError
from .names import plain_name

# Lines of the lists that contradict the folders are left out up to this share; beyond it no reading is safe.
_TOLERATED = 0.01
_LINE = re.compile(r"(?:.*/)?([^/]+)/([^/]+)/([^/]+)\s+(\d{1,18})")  # domain/class/file number


def stratified_split(
    labels: Tensor,
    domains: Tensor,
    class_names: Sequence[str],
    domain_names: Sequence[str],
    test_share: float,
    seed: int = 0,
) -> Tensor:
    """bool [N], True for the test part: `test_share` of every (class, domain) cell, rounded, drawn with
    `seed`.

    A cell of two or more images gets at least one of each part. What is drawn for a cell depends on its
    names, its size and the seed only, not on the other cells.
    """
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    cells = domains * len(class_names) + labels
    sizes = torch.bincount(cells, minlength=len(domain_names) * len(class_names)).tolist()
    names = [(domain_name, class_name) for domain_name in domain_names for class_name in class_names]
    for cell_names, rows in zip(names, torch.split(torch.argsort(cells, stable=True), sizes), strict=True):
        count = min(max(round(test_share * len(rows)), 1), len(rows) - 1)
        if count > 0:
            random = generator(seed, "split", *cell_names)
            is_test[rows[torch.randperm(len(rows), generator=random)[:count]]] = True
    return is_test


@dataclass(frozen=True)
class SplitLists:
    """What the lists of one domain say. An item is "class folder/file name".

    Attributes:
        is_test: the listed items, and whether each belongs to the test part.
        first_number: the number of the first class (0 or 1), or None where the classes are numbered in
            another order.
        doubtful: items left out because their number contradicts their folder.
    """

    is_test: Mapping[str, bool]
    first_number: int | None
    doubtful: tuple[str, ...]


def find_lists(texts: Sequence[Path], domain: str) -> tuple[Path, Path] | None:
    """The train and the test list of `domain` among the text files `texts`, or None.

    PACS calls them ``<domain>_train_kfold.txt`` and ``<domain>_crossval_kfold.txt``, DomainNet
    ``<domain>_train.txt`` and ``<domain>_test.txt``. Raises DataError where one of the two is missing or
    there are several.
    """
    for train_ending, test_ending in (("_train_kfold", "_crossval_kfold"), ("_train", "_test")):
        found = [
            [path for path in texts if name_key(path.stem) == name_key(domain + ending)]
            for ending in (train_ending, test_ending)
        ]
        for candidates in found:
            if len(candidates) > 1:
                raise DataError(
                    f"{candidates[0]} and {candidates[1]} are both lists of {domain!r}; keep the one that "
                    "is meant"
                )
        if found[0] and found[1]:
            return found[0][0], found[1][0]
        if found[0] or found[1]:
            have, ending = (found[0] or found[1])[0], test_ending if found[0] else train_ending
            raise DataError(
                f"{have} has no counterpart {domain}{ending}.txt; add it, or remove the lists for a seeded "
                "split"
            )
    return None


def read_lists(train: Path, test: Path, domain: str, class_folders: Sequence[str]) -> SplitLists:
    """Reads both lists of a domain: lines "domain/class/file number", where leading folders do not matter.

    The folder says the class; the numbers are checked against it. Each class must have one number and each
    number one class. Single lines that break this are reported as doubtful; more than 1 % of them are an
    error. Raises DataError naming file and line for a line of another form, another domain, or an item in
    both lists.
    """
    is_test: dict[str, bool] = {}
    lines: list[tuple[str, str, int, str]] = []  # item, class folder, number, where
    for path, belongs_to_test in ((train, False), (test, True)):
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            matched = _LINE.fullmatch(line.strip().replace("\\", "/"))
            if matched is None:
                raise DataError(f"{where}: expected 'domain/class/file number', got {shown(line.strip())}")
            *names, label = matched.groups()
            listed_domain, folder, file = map(plain_name, names)
            if name_key(listed_domain) != name_key(domain):
                raise DataError(f"{where} names the domain {shown(listed_domain)} in the list of {domain!r}")
            item = f"{folder}/{file}"
            if is_test.setdefault(item, belongs_to_test) != belongs_to_test:
                raise DataError(f"{where}: {item} is in the train and in the test list; keep one")
            if folder in class_folders:
                lines.append((item, folder, int(label), where))

    votes: dict[str, Counter[int]] = {}
    for _, folder, label, _ in lines:
        votes.setdefault(folder, Counter())[label] += 1
    numbers = {folder: counted.most_common(1)[0][0] for folder, counted in votes.items()}
    wrong = [(item, where) for item, folder, label, where in lines if label != numbers[folder]]
    if len(set(numbers.values())) < len(numbers) or len(wrong) > _TOLERATED * len(lines):
        where = wrong[0][1] if wrong else str(train)
        raise DataError(
            f"{where}: the class numbers contradict the class folders ({len(wrong)} of {len(lines)} lines); "
            "correct the lists, or remove them for a seeded split"
        )
    for item, _ in wrong:
        is_test.pop(item, None)
    bases = {number - class_folders.index(folder) for folder, number in numbers.items()}
    first = bases.pop() if len(bases) == 1 else None
    return SplitLists(is_test, first if first in (0, 1) else None, tuple(item for item, _ in wrong))


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a text list ({error}); fetch it again or remove it"
        ) from error
