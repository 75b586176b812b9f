"""The layouts of public benchmarks, as they are distributed."""

from pathlib import Path

import pytest
from data_trees import colour_of, write_image, write_tree
from folder_cases import check_contents, write_lists

from dgdd_fast.data import load_folder
from dgdd_fast.data.benchmarks import BENCHMARKS, PACS, VLCS, recognise

PACS_FOLDERS = [f"{domain}/{name}" for domain in PACS.domains for name in PACS.classes]


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


def test_nothing_of_the_test_part_is_learnt_from_where_full_repeats_it(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a/full/cat", "a/full/dog", "b/full/cat", "b/full/dog"], images=5)
    write_tree(tmp_path, ["a/test/cat", "a/test/dog"], images=2)  # the first two of them
    data = load_folder(tmp_path)
    own = data.only_domains(["a"])
    assert own.train().counts().tolist() == [[3], [3]]
    assert own.test().counts().tolist() == [[2], [2]]
    repeated = {name.replace("/test/", "/full/") for name in own.test().item_names}
    assert repeated.isdisjoint(own.train().item_names)
    assert data.only_domains(["b"]).counts().tolist() == [[5], [5]]


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
