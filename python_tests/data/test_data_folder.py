"""Image folders: the layouts of the benchmarks, their splits, and bad data."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_trees import write_image, write_npz, write_tree
from folder_cases import check_contents
from PIL import Image

from dgdd_fast.data import DataError, load_dataset, load_folder
from dgdd_fast.data.pack import pack


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


@pytest.mark.parametrize("other", ["images", "parts", "npz", "packed"])
def test_a_folder_of_several_data_sets_is_refused_by_their_names(tmp_path: Path, other: str) -> None:
    cells = ["photo/dog", "photo/cat", "sketch/dog", "sketch/cat"]
    write_tree(tmp_path / "all" / "mine", cells)
    assert load_dataset(tmp_path / "all").domain_names == ("photo", "sketch")  # the only one
    beside = tmp_path / "all" / "data10"
    beside.mkdir()
    (beside / "features.npz").write_bytes((write_npz(tmp_path, "x", ["cat"])).read_bytes())
    if other == "images":
        write_tree(beside, cells)
    elif other == "parts":
        write_tree(beside, ["photo/train/dog", "photo/val/dog"])
    elif other == "packed":
        pack(tmp_path / "all" / "mine", beside / "packed")
    if other != "npz":
        (beside / "features.npz").unlink()
    with pytest.raises(
        DataError, match=r"all holds 2 folders that could each be the data, data10.*, mine: name"
    ):
        load_dataset(tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / "mine")
    (tmp_path / "all" / "x").mkdir()
    write_npz(tmp_path / "all" / "x", "photo", ["cat"])
    with pytest.raises(DataError, match=r"holds 2 folders that could each be the data, data10.*, x: name"):
        load_dataset(tmp_path / "all")


def test_arrays_that_are_no_images_are_no_data_set(tmp_path: Path) -> None:
    write_tree(tmp_path / "mine", ["photo/dog", "photo/cat", "sketch/dog", "sketch/cat"])
    (tmp_path / "features").mkdir()
    np.savez(tmp_path / "features" / "photo.npz", features=np.zeros(3))
    assert any("features/photo.npz" in warning for warning in load_dataset(tmp_path).warnings)


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
