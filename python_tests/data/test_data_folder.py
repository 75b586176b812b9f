"""Image folders: the layouts of the benchmarks, their splits, and bad data."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_trees import colour_of, write_image, write_npz, write_tree
from PIL import Image

from dgdd_fast.data import DataError, DomainDataset, load_dataset, load_folder
from dgdd_fast.data.benchmarks import BENCHMARKS, PACS, VLCS, recognise

PACS_FOLDERS = [f"{domain}/{name}" for domain in PACS.domains for name in PACS.classes]


def check_contents(data: DomainDataset, root: Path) -> None:
    """Every row has the pixels, the class and the domain of the file that its name gives."""
    for row, name in enumerate(data.item_names):
        parts = name.split("/")
        assert data.domain_names[int(data.domains[row])] == parts[0]
        assert data.class_names[int(data.labels[row])] == parts[-2]
        expected = torch.tensor(np.asarray(Image.open(root / name).convert("RGB").getpixel((0, 0))))
        assert torch.equal(data.images[row, :, 0, 0], expected.to(torch.uint8)), name


def write_lists(
    folder: Path, domains: dict[str, list[str]], endings: tuple[str, str], first: int = 0
) -> None:
    """Lists for trees of five images a cell: image 4 is for testing. `domains` maps a domain to its classes
    in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for domain, classes in domains.items():
        for ending, numbers in zip(endings, (range(4), [4]), strict=True):
            lines = [
                f"{domain}/{name}/{number}.png {first + label}\n"
                for label, name in enumerate(classes)
                for number in numbers
            ]
            (folder / f"{domain}{ending}.txt").write_text("".join(lines))


def test_plain_folders_get_a_seeded_stratified_split(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "mine", ["b/dog", "b/cat", "a/dog", "a/cat"], images=10)
    data = load_folder(root)
    assert (data.name, data.domain_names, data.class_names) == ("mine", ("a", "b"), ("cat", "dog"))
    assert data.resolution == (8, 8)
    check_contents(data, root)
    assert data.test().counts().tolist() == [[2, 2], [2, 2]]
    assert data.train().counts().tolist() == [[8, 8], [8, 8]]
    assert any("no split comes with the data; the test part is 20%" in warning for warning in data.warnings)
    assert data.fingerprint() == load_folder(root).fingerprint()
    other = load_folder(root, seed=1)
    assert not torch.equal(other.is_test, data.is_test)
    assert other.test().counts().tolist() == [[2, 2], [2, 2]]


def test_the_split_of_a_domain_does_not_depend_on_the_others(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/dog", "a/cat", "b/dog", "b/cat"], images=10)
    both, alone = load_folder(root), load_folder(root, domains=["b"])
    assert set(alone.test().item_names) == set(both.only_domains(["b"]).test().item_names)


def test_small_cells_keep_an_image_for_training(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/one"], images=1)
    write_tree(tmp_path, ["a/two"], images=2)
    data = load_folder(tmp_path)
    assert data.train().counts().flatten().tolist() == [1, 1]
    assert data.test().counts().flatten().tolist() == [0, 1]


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    root = write_tree(tmp_path, [f"d{domain}/c{label}" for domain in (10, 9) for label in (2, 11)], images=2)
    data = load_folder(root)
    assert data.domain_names == ("d9", "d10")
    assert data.class_names == ("c2", "c11")


def test_domains_classes_and_resolution_are_chosen(tmp_path: Path) -> None:
    root = write_tree(tmp_path, [f"{domain}/{name}" for domain in "abc" for name in ("cat", "dog", "owl")])
    data = load_folder(root, resolution=5, domains=["c", "a"], classes=["owl", "cat"])
    assert data.domain_names == ("a", "c")
    assert data.class_names == ("cat", "owl")
    assert data.resolution == (5, 5)
    with pytest.raises(DataError, match=r"no domain 'd'; it has a, b, c"):
        load_folder(root, domains=["d"])
    with pytest.raises(DataError, match=r"no class 'cow'; it has cat, dog, owl"):
        load_folder(root, classes=["cow"])


@pytest.mark.parametrize("wrapper", ["kfold", "images", "Raw images/kfold"])
@pytest.mark.parametrize("inside", [False, True])
def test_pacs_with_its_official_lists(tmp_path: Path, wrapper: str, inside: bool) -> None:
    root = write_tree(tmp_path / "PACS" / wrapper, PACS_FOLDERS)
    lists = root.parent / "splits"
    write_lists(
        lists, {d: list(PACS.classes) for d in PACS.domains}, ("_train_kfold", "_crossval_kfold"), first=1
    )
    for domain in PACS.domains:
        train, crossval = (lists / f"{domain}_{part}_kfold.txt" for part in ("train", "crossval"))
        (lists / f"{domain}_test_kfold.txt").write_text(train.read_text() + crossval.read_text())
    data = load_folder(root if inside else tmp_path / "PACS")
    assert data.resolution == (64, 64)
    assert data.class_names == PACS.classes
    check_contents(data, root)
    assert all(name.endswith("/4.png") for name in data.test().item_names)
    assert data.test().counts().tolist() == [[1] * 4] * 7
    assert data.train().counts().tolist() == [[4] * 4] * 7
    assert any("count the classes from 1; the labels are 0..6" in warning for warning in data.warnings)


def test_pacs_without_lists_gets_a_tenth_and_a_warning(tmp_path: Path) -> None:
    data = load_folder(write_tree(tmp_path, PACS_FOLDERS, images=10))
    assert data.test().counts().tolist() == [[1] * 4] * 7
    assert any("no split comes with the data; the test part is 10%" in warning for warning in data.warnings)
    assert any("by its names this is PACS, so the images are resized to 64 x 64" in w for w in data.warnings)


def test_domainnet_with_its_lists_and_a_choice_of_classes(tmp_path: Path) -> None:
    classes = ["airplane", "The_Eiffel_Tower", "zebra"]
    root = write_tree(tmp_path, [f"{domain}/{name}" for domain in ("clipart", "real") for name in classes])
    order = ["The_Eiffel_Tower", "airplane", "zebra"]  # as the lists number them
    write_lists(root, {"clipart": order, "real": order}, ("_train", "_test"))
    data = load_folder(root, resolution=8, classes=["zebra", "airplane"])
    assert data.class_names == ("airplane", "zebra")
    check_contents(data, root)
    assert data.test().counts().tolist() == [[1, 1], [1, 1]]
    assert any("number the classes in another way" in warning for warning in data.warnings)


def test_vlcs_as_distributed(tmp_path: Path) -> None:
    folders = [
        f"{d}/{p}/{c}"
        for d in ("CALTECH", "SUN")
        for p in ("train", "crossval", "test", "full")
        for c in range(5)
    ]
    root = write_tree(tmp_path, folders, images=3)
    data = load_folder(root, resolution=8)
    assert data.class_names == VLCS.classes
    assert data.flip_safe
    assert data.train().counts().tolist() == [[6, 6]] * 5
    assert data.test().counts().tolist() == [[3, 3]] * 5
    assert all("/test/" in name for name in data.test().item_names)
    assert not any("/full/" in name for name in data.item_names)
    assert any("0..4 are named bird, car" in warning for warning in data.warnings)


def test_digits_dg_as_distributed(tmp_path: Path) -> None:
    folders = [f"{d}/{part}/{c}" for d in ("mnist", "syn") for part in ("train", "val") for c in range(10)]
    root = write_tree(tmp_path, folders, images=2, ending="bmp")
    data = load_folder(root)
    assert data.resolution == (32, 32)
    assert not data.flip_safe
    check_contents(data, root)
    assert all("/val/" in name for name in data.test().item_names)
    assert data.counts().tolist() == [[4, 4]] * 10


def test_office_home_as_distributed(tmp_path: Path) -> None:
    outer = tmp_path / "OfficeHomeDataset_10072016"
    root = write_tree(
        outer,
        [f"{d}/{c}" for d in ("Art", "Real World") for c in ("Alarm_Clock", "TV")],
        images=10,
        ending="bmp",
    )
    (outer / "imagelist.txt").write_text("Art/Alarm_Clock/0.bmp\n")
    data = load_folder(tmp_path)
    assert data.domain_names == ("Art", "Real World")
    assert data.resolution == (64, 64)
    check_contents(data, root)
    assert data.test().counts().tolist() == [[1, 1], [1, 1]]


def test_core50_as_distributed(tmp_path: Path) -> None:
    for session in (5, 10):
        for thing in (1, 5, 6, 50):
            for frame in range(10):
                write_image(
                    tmp_path / "core50_128x128",
                    f"s{session}/o{thing}/C_{session:02d}_{thing:02d}_{frame:03d}.png",
                )
    data = load_folder(tmp_path, resolution=8, domains=["s10", "s5"])
    assert data.domain_names == ("s5", "s10")
    assert len(data.class_names) == 3
    names = {
        name.split("/")[1]: data.class_names[int(label)]
        for name, label in zip(data.item_names, data.labels, strict=True)
    }
    assert names == {
        "o1": "plug_adapter",
        "o5": "plug_adapter",
        "o6": "mobile_phone",
        "o50": "remote_control",
    }
    assert all(name[-7:] in ("008.png", "009.png") for name in data.test().item_names)
    assert len(data.test()) == 2 * 4 * 2
    assert any("the last frames of each video" in warning for warning in data.warnings)


def test_unknown_folders_around_the_domains_are_reported(tmp_path: Path) -> None:
    write_tree(tmp_path / "download" / "v2", ["a/cat", "a/dog", "b/cat", "b/dog"])
    data = load_folder(tmp_path)
    assert data.domain_names == ("a", "b")
    assert any("the folders in download/v2" in warning for warning in data.warnings)


# Lists


def pacs_like(tmp_path: Path, first: int = 0) -> Path:
    root = write_tree(tmp_path, ["photo/dog", "photo/cat", "sketch/dog", "sketch/cat"])
    write_lists(root, {"photo": ["cat", "dog"], "sketch": ["cat", "dog"]}, ("_train", "_test"), first)
    return root


def test_lists_from_zero_need_no_warning(tmp_path: Path) -> None:
    assert load_folder(pacs_like(tmp_path)).warnings == ()


@pytest.mark.parametrize("style", ["/home/someone/data/{}", ".\\{}", "{}"])
def test_leading_folders_in_the_lists_do_not_matter(tmp_path: Path, style: str) -> None:
    root = pacs_like(tmp_path)
    for path in root.glob("*.txt"):
        path.write_text("".join(style.format(line) for line in path.read_text().splitlines(keepends=True)))
    assert load_folder(root).test().counts().tolist() == [[1, 1], [1, 1]]


def test_numbers_that_contradict_the_folders_are_refused(tmp_path: Path) -> None:
    root = pacs_like(tmp_path)
    path = root / "photo_train.txt"
    path.write_text(path.read_text().replace("dog/2.png 1", "dog/2.png 0"))
    with pytest.raises(DataError, match=r"photo_train\.txt, line 7: the class numbers .*1 of 10 lines"):
        load_folder(root)


def test_a_rare_contradiction_leaves_the_image_out_with_a_warning(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["photo/dog", "photo/cat"], images=100)
    lines = [
        f"photo/{name}/{row}.png {label}" for label, name in enumerate(("cat", "dog")) for row in range(100)
    ]
    lines[3] = "photo/cat/3.png 1"
    (root / "photo_train.txt").write_text("\n".join(lines[:150]))
    (root / "photo_test.txt").write_text("\n".join(lines[150:]))
    data = load_folder(root)
    assert "photo/cat/3.png" not in data.item_names
    assert len(data) == 199
    assert any("contradicts their folder, left out: 1, for example cat/3.png" in w for w in data.warnings)


def test_one_number_for_two_classes_is_refused(tmp_path: Path) -> None:
    root = pacs_like(tmp_path)
    for path in root.glob("photo_*.txt"):
        path.write_text(path.read_text().replace("png 1", "png 0"))
    with pytest.raises(DataError, match="class numbers contradict the class folders"):
        load_folder(root)


def test_listed_and_present_images_are_compared(tmp_path: Path) -> None:
    root = pacs_like(tmp_path)
    (root / "photo/dog/0.png").unlink()
    write_image(root, "sketch/cat/new.png")
    data = load_folder(root)
    assert "sketch/cat/new.png" not in data.item_names
    assert len(data) == 19
    assert any(
        "'photo': listed images that are not there: 1, for example dog/0.png" in w for w in data.warnings
    )
    assert any(
        "'sketch': images in no list, left out: 1, for example cat/new.png" in w for w in data.warnings
    )


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "photo_test.txt",
            "photo/dog/4.png",
            r"photo_test\.txt, line 1: expected 'domain/class/file number'",
        ),
        ("photo_test.txt", "4.png 1", "expected 'domain/class/file number'"),
        ("photo_test.txt", "sketch/dog/4.png 1", "names the domain 'sketch' in the list of 'photo'"),
        ("photo_test.txt", "photo/dog/0.png 1", "dog/0.png is in the train and in the test list"),
        ("photo_test.txt", None, r"photo_train\.txt has no counterpart photo_test\.txt"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    root = pacs_like(tmp_path)
    if text is None:
        (root / file).unlink()
    else:
        (root / file).write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        load_folder(root)


def test_two_lists_for_one_domain_are_refused(tmp_path: Path) -> None:
    root = pacs_like(tmp_path)
    (root / "mini").mkdir()
    (root / "mini/photo_train.txt").write_text("photo/dog/0.png 1")
    with pytest.raises(DataError, match="are both lists of 'photo'; keep the one that is meant"):
        load_folder(root)


def test_lists_for_some_domains_only_are_refused(tmp_path: Path) -> None:
    root = pacs_like(tmp_path)
    for path in root.glob("sketch_*.txt"):
        path.unlink()
    with pytest.raises(DataError, match="no lists for the domain 'sketch'"):
        load_folder(root)


def test_lists_of_other_data_are_refused(tmp_path: Path) -> None:
    root = pacs_like(tmp_path)
    for path in root.glob("photo_*.txt"):
        path.write_text(path.read_text().replace(".png", ".jpg"))
    with pytest.raises(DataError, match="lists no image that is below"):
        load_folder(root)


# Bad data


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog"])
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "a/cat/1.png")
    (root / "a/cat/1.png").write_bytes((root / "a/cat/1.png").read_bytes()[:150])
    (root / "a/dog/3.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        load_folder(root)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{root}/a/cat/1.png is truncated or damaged")
    assert second.startswith(f"{root}/a/dog/3.png is named like an image")
    for path in (root / "a").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="and 5 more files"):
        load_folder(root)


def test_mixed_sizes_need_a_resolution_and_mixed_modes_do_not(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog"])
    for number, mode in enumerate(("L", "RGBA", "P", "CMYK", "1")):
        ending = "jpg" if mode == "CMYK" else "png"
        write_image(root, f"a/cat/mode{number}.{ending}", mode=mode)
    assert load_folder(root).resolution == (8, 8)
    write_image(root, "a/dog/large.png", size=(30, 20))
    with pytest.raises(
        DataError, match=r"a/dog/large\.png is 30 x 20 pixels, others are 8 x 8; choose a resolution"
    ):
        load_folder(root)
    assert load_folder(root, resolution=16).resolution == (16, 16)


def test_a_class_missing_from_a_domain_is_an_empty_cell_with_a_warning(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog", "b/cat"])
    data = load_folder(root)
    assert data.counts().tolist() == [[5, 5], [5, 0]]
    assert any("domain 'b' has no image of dog" in warning for warning in data.warnings)
    (root / "b/dog").mkdir()
    assert load_folder(root).counts().tolist() == [[5, 5], [5, 0]]


def test_a_class_without_any_image_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog", "b/cat", "b/dog"])
    (root / "a/owl").mkdir()
    (root / "a/owl/.DS_Store").write_text("")
    with pytest.raises(DataError, match="the class 'owl' has no image in any domain"):
        load_folder(root)


def test_an_empty_domain_folder_is_reported(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog", "b/cat", "b/dog"])
    (root / "sketch").mkdir()
    data = load_folder(root)
    assert data.domain_names == ("a", "b")
    assert any(
        "the folder sketch is empty and not counted as a domain" in warning for warning in data.warnings
    )


def test_one_domain_is_allowed_with_a_warning(tmp_path: Path) -> None:
    data = load_folder(write_tree(tmp_path, ["a/cat", "a/dog"]))
    assert data.num_domains == 1
    assert any("there is one domain only, 'a'" in warning for warning in data.warnings)


def test_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class names '(D|d)og' and '(D|d)og'"):
        load_folder(write_tree(tmp_path / "classes", ["a/dog", "b/Dog"]))
    with pytest.raises(DataError, match=r"domain names '(A|a)' and '(A|a)'"):
        load_folder(write_tree(tmp_path / "domains", ["a/dog", "A/dog"]))


def test_stray_files_are_ignored_and_misplaced_images_reported(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog"])
    for stray in (
        ".DS_Store",
        "a/Thumbs.db",
        "a/cat/._0.png",
        "a/cat/0.png~",
        "a/cat/desktop.ini",
        "__MACOSX/a/cat/._0.png",
    ):
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        (root / stray).write_bytes(b"junk")
    quiet = load_folder(root)
    assert len(quiet) == 10
    assert len(quiet.warnings) == 2  # one domain, seeded split
    write_image(root, "a/preview.png")
    write_image(root, "a/cat/more/1.png")
    (root / "a/dog/clip.mp4").write_bytes(b"junk")
    data = load_folder(root)
    assert len(data) == 10
    assert any("images outside domain/class folders are left out: 2" in warning for warning in data.warnings)
    assert any(
        "no images by their ending are left out: 1" in w and "a/dog/clip.mp4" in w for w in data.warnings
    )


def test_layouts_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images; expected domain/class/image"):
        load_folder(tmp_path)
    with pytest.raises(DataError, match="holds class/image folders without a domain"):
        load_folder(write_tree(tmp_path / "flat", ["cat", "dog"]))
    with pytest.raises(DataError, match="holds images but no domain and class folders"):
        load_folder(write_image(tmp_path / "loose", "1.png").parent)
    with pytest.raises(DataError, match="test, train, which are parts of one domain"):
        load_folder(write_tree(tmp_path / "parts", ["train/cat", "test/cat"]))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unreadable_file_and_folder_are_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/cat", "a/dog"])
    (root / "a/cat/1.png").chmod(0)
    with pytest.raises(DataError, match=r"a/cat/1\.png cannot be read: Permission denied"):
        load_folder(root)
    (root / "a/dog").chmod(0)
    with pytest.raises(DataError, match=r"a/dog cannot be read: Permission denied"):
        load_folder(root)
    (root / "a/dog").chmod(0o700)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_tree(tmp_path / "elsewhere", ["cat", "dog"])
    root = tmp_path / "linked"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    assert len(load_folder(root)) == 10


def test_two_thousand_small_images_load_in_a_second_or_two(tmp_path: Path) -> None:
    original = write_image(tmp_path, "a/cat/0.png", size=(32, 32))
    for label in ("cat", "dog"):
        (tmp_path / "a" / label).mkdir(exist_ok=True)
        for number in range(1000):
            shutil.copyfile(original, tmp_path / "a" / label / f"n{number}.png")
    start = time.process_time()
    assert len(load_folder(tmp_path)) == 2001
    assert time.process_time() - start < 5


# One entry for all


def test_load_dataset_tells_what_is_there(tmp_path: Path) -> None:
    write_tree(tmp_path / "images", ["a/cat", "a/dog"])
    npz = write_npz(tmp_path / "arrays", "photo", ["cat", "dog"])
    assert load_dataset(tmp_path / "images").domain_names == ("a",)
    assert load_dataset(str(tmp_path / "arrays"), resolution=5).resolution == (5, 5)
    assert load_dataset(npz).domain_names == ("photo",)
    digits = load_dataset("embedded-digits", resolution=16, domains=["plain", "street"])
    assert digits.domain_names == ("plain", "street")
    assert digits.resolution == (16, 16)
    for source, names in (
        (tmp_path / "images", ["dog"]),
        (tmp_path / "arrays", ["dog"]),
        (npz, ["dog"]),
        ("embedded-digits", ["3", "8"]),
    ):
        assert load_dataset(source, resolution=16, classes=names).class_names == tuple(names)
    with pytest.raises(DataError, match=r"does not exist; name a data folder, or 'embedded-digits'"):
        load_dataset(tmp_path / "nowhere")
    archive = tmp_path / "pacs.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack it"):
        load_dataset(archive)
    with pytest.raises(DataError, match=r"for the \.npz files name .*arrays"):
        load_folder(tmp_path / "arrays")


# Descriptors


def test_descriptors_are_consistent() -> None:
    for benchmark in BENCHMARKS:
        assert len(benchmark.domains) == len(benchmark.folder_names)
        assert len(set(benchmark.classes)) in (0, benchmark.num_classes)
        assert benchmark.resolution in (32, 64, 128)
        assert recognise(benchmark.domains, benchmark.classes or ["zebra"]) is benchmark
    assert {benchmark.name for benchmark in BENCHMARKS} == {
        "Digits-DG", "PACS", "CORe50-Hard", "VLCS", "Office-Home", "DomainNet-Sub"
    }  # fmt: skip


def test_recognition_allows_spellings_and_refuses_strangers() -> None:
    assert recognise(["Caltech101", "VOC2007"], ["bird", "car"]) is VLCS
    assert recognise(["Art Painting", "SKETCH"], ["dog"]) is PACS
    assert recognise(["photo", "oil"], ["dog"]) is None
    assert recognise(["photo", "sketch"], ["dog", "yak"]) is None


def test_the_test_colours_differ() -> None:
    assert len({colour_of(f"{folder}/{number}.png") for folder in PACS_FOLDERS for number in range(5)}) > 100
