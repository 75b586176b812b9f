"""Loading .npz files: round trip, repairs, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_trees import write_npz

from dgdd_fast.data import DataError, load_npz

CLASSES = ["cat", "dog", "owl"]


def test_round_trip(tmp_path: Path) -> None:
    paths = [write_npz(tmp_path, domain, CLASSES) for domain in ("photo", "sketch")]
    data = load_npz(tmp_path)
    assert data.domain_names == ("photo", "sketch")
    assert data.class_names == ("cat", "dog", "owl")
    assert data.warnings == ()
    for number, path in enumerate(paths):
        arrays = np.load(path)
        rows = data.select(data.domains == number)
        for part, selected in (("train", rows.train()), ("test", rows.test())):
            assert np.array_equal(selected.images[:].permute(0, 2, 3, 1).numpy(), arrays[f"x_{part}"])
            assert np.array_equal(selected.labels.numpy(), arrays[f"y_{part}"])
            assert selected.item_names == tuple(arrays[f"names_{part}"])


def test_domains_are_in_natural_order_as_those_of_folders(tmp_path: Path) -> None:
    for domain in ("s10", "s2", "S3", "s"):
        write_npz(tmp_path, domain, CLASSES)
    assert load_npz(tmp_path).domain_names == ("s", "s2", "S3", "s10")


def test_one_file_is_one_domain_with_a_warning(tmp_path: Path) -> None:
    data = load_npz(write_npz(tmp_path, "photo", CLASSES))
    assert data.domain_names == ("photo",)
    assert any("one domain only" in warning for warning in data.warnings)


def test_domains_and_resolution_are_chosen(tmp_path: Path) -> None:
    for domain in ("photo", "sketch", "paint"):
        write_npz(tmp_path, domain, CLASSES)
    data = load_npz(tmp_path, resolution=5, domains=["sketch", "paint"])
    assert data.domain_names == ("paint", "sketch")
    assert data.resolution == (5, 5)
    with pytest.raises(DataError, match=r"no domain 'oil'.*paint, photo, sketch"):
        load_npz(tmp_path, domains=["oil"])
    with pytest.raises(DataError, match="at least 1 pixel"):
        load_npz(tmp_path, resolution=0)


def test_classes_are_chosen_before_what_is_missing_is_told(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES)
    write_npz(tmp_path, "sketch", ["cat", "owl"])
    whole, data = load_npz(tmp_path), load_npz(tmp_path, classes=["owl", "cat"])
    assert data.class_names == ("cat", "owl")
    assert data.warnings == ()
    for number, name in enumerate(data.class_names):
        expected = whole.images[whole.labels == whole.class_names.index(name)]
        assert torch.equal(data.images[data.labels == number], expected)
    with pytest.raises(DataError, match=r"no class 'cow'; it has cat, dog, owl"):
        load_npz(tmp_path, classes=["cow"])


def test_grey_images_are_repeated_and_names_are_optional(tmp_path: Path) -> None:
    grey = np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8)
    write_npz(tmp_path, "photo", CLASSES, x_train=grey, x_test=grey[:6], names_train=None, names_test=None)
    data = load_npz(tmp_path)
    assert torch.equal(data.images[:12], torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1))
    assert data.item_names[0] == "photo/train/0"


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_are_read_by_their_range(tmp_path: Path, scale: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    pixels[0, 0, 0, 0] = 255
    floats = pixels.astype(np.float32) * (scale / 255)
    write_npz(tmp_path, "photo", CLASSES, x_train=floats, x_test=floats[:6])
    assert np.array_equal(load_npz(tmp_path).images[:12].permute(0, 2, 3, 1).numpy(), pixels)


def test_labels_from_one_are_repaired_with_a_warning(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES, **one_up())
    write_npz(tmp_path, "sketch", CLASSES, **one_up())
    data = load_npz(tmp_path)
    sketch = data.select(data.domains == 1)
    assert sketch.train().labels.tolist() == np.repeat([0, 1, 2], 4).tolist()
    for domain in ("photo", "sketch"):
        assert f"{domain}.npz: its labels count from 1; brought to 0..2" in data.warnings


def test_the_item_names_decide_where_the_numbers_alone_do_not(tmp_path: Path) -> None:
    # Labels 1 and 2 of three classes: from 0 without the first class, or from 1 without the last.
    train, test = np.repeat([1, 2], 6), np.repeat([1, 2], 3)
    from_one = {
        part: np.array([f"photo/{CLASSES[label - 1]}/{row}.png" for row, label in enumerate(labels)])
        for part, labels in (("train", train), ("test", test))
    }
    names = {"names_train": from_one["train"], "names_test": from_one["test"]}
    write_npz(tmp_path, "photo", CLASSES, y_train=train, y_test=test, **names)
    write_npz(tmp_path, "sketch", CLASSES)
    data = load_npz(tmp_path)
    assert set(data.select(data.domains == 0).labels.tolist()) == {0, 1}
    assert any("has no image of owl" in warning for warning in data.warnings)


def test_ambiguous_labels_are_refused_unless_the_other_files_count_from_zero(tmp_path: Path) -> None:
    train, test = np.repeat([1, 2], 6), np.repeat([1, 2], 3)
    write_npz(tmp_path, "photo", CLASSES, y_train=train, y_test=test)
    with pytest.raises(DataError, match=r"photo.npz: its labels are 1\.\.2 for 3 classes.*domain/class/file"):
        load_npz(tmp_path)
    write_npz(tmp_path, "sketch", CLASSES)
    data = load_npz(tmp_path)
    assert set(data.select(data.domains == 0).labels.tolist()) == {1, 2}
    write_npz(tmp_path, "sketch", CLASSES, y_train=np.repeat([1, 2, 3], 4), y_test=np.repeat([1, 2, 3], 2))
    with pytest.raises(DataError, match=r"photo.npz"):
        load_npz(tmp_path)


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES)
    path = write_npz(tmp_path, "sketch", ["owl", "cat", "dog"])
    data = load_npz(tmp_path)
    sketch = data.select(data.domains == 1).train()
    names = [data.class_names[label] for label in sketch.labels.tolist()]
    assert names == [str(np.load(path)["classes"][label]) for label in np.load(path)["y_train"]]
    assert any("sketch.npz: its classes are in another order" in warning for warning in data.warnings)


def test_a_class_missing_from_a_domain_is_an_empty_cell_with_a_warning(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES)
    write_npz(tmp_path, "sketch", ["cat", "owl"])
    data = load_npz(tmp_path)
    assert data.counts().tolist() == [[6, 6], [6, 0], [6, 6]]
    assert any("'sketch' has no image of dog" in warning for warning in data.warnings)


def test_labels_without_the_first_class_are_read_as_the_others_are_and_told(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES)
    write_npz(
        tmp_path, "sketch", CLASSES, y_train=np.repeat([1, 2], 6), y_test=np.repeat([1, 2], 3),
        names_train=None, names_test=None,
    )  # fmt: skip
    data = load_npz(tmp_path)
    assert data.counts()[:, 1].tolist() == [0, 9, 9]
    told = "sketch.npz: its labels are 1..2 for 3 classes; taken to count from 0, as those of photo.npz"
    assert told in data.warnings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "has no array y_train; expected the arrays x_train"),
        ({"y_train": np.zeros(5, np.int64)}, "y_train must be 12 integers"),
        ({"y_train": np.zeros(12)}, "y_train must be 12 integers"),
        ({"y_train": np.repeat([0, 1, 7], 4)}, r"label 7 of train/8 is outside 0\.\.2"),
        ({"y_train": np.repeat([-1, 1, 2], 4)}, r"label -1 of train/0 is outside 0\.\.2"),
        ({"y_train": np.repeat([0, 1, 3], 4)}, r"label 3 of train/8 is outside 0\.\.2"),
        ({"names_test": np.array(["a"])}, "names_test must be 6 names"),
        ({"names_train": np.array(["x/dog/1"] * 12), "names_test": np.array(["x/dog/1"] * 6)},
         "label 0 of x/dog/1 means 'cat', but its name says 'dog'"),
        ({"x_test": np.zeros((6, 9, 9, 3), np.uint8)}, "one type and size"),
        ({"x_train": np.zeros((12, 3, 8, 8), np.uint8)}, "channels last"),
        ({f"x_{part}": np.zeros((count, 8, 8, 3), np.int16) for part, count in (("train", 12), ("test", 6))},
         "expected uint8"),
        ({"x_train": np.full((12, 8, 8, 3), np.nan), "x_test": np.zeros((6, 8, 8, 3))},
         r"x_train\[0\] has .* NaN"),
        ({"x_train": np.full((12, 8, 8, 3), -0.5), "x_test": np.zeros((6, 8, 8, 3))}, "float pixels in -0.5"),
        ({"x_train": np.full((12, 8, 8, 3), 200.0), "x_test": np.full((6, 8, 8, 3), 0.5)},
         r"x_test\[0\] has float pixels in 0\.\.1 and .*x_train\[0\] in 0\.\.255"),
        ({"classes": np.array(["cat", "cat", "dog"])}, "names one class twice"),
        ({"classes": np.array(["cat", "Cat", "dog"])}, "'cat' and 'Cat', which differ in case only"),
        ({"classes": np.array(["cat", "dog", "owl", "yak"])}, "'yak' has no image in any domain"),
        ({"classes": np.array(["cat", {"a": 1}], dtype=object)}, "plain array"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_npz(tmp_path, "photo", CLASSES, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_npz(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path, "photo", CLASSES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"photo\.npz cannot be read"):
        load_npz(tmp_path)
    path.write_text("no archive at all")
    with pytest.raises(DataError, match=r"photo\.npz cannot be read"):
        load_npz(tmp_path)


def test_no_files_and_mixed_sizes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .npz file"):
        load_npz(tmp_path)
    write_npz(tmp_path, "photo", CLASSES)
    larger = np.zeros((18, 9, 9, 3), np.uint8)
    write_npz(tmp_path, "sketch", CLASSES, x_train=larger[:12], x_test=larger[12:])
    with pytest.raises(DataError, match=r"photo.npz 8 x 8, sketch.npz 9 x 9.*choose a resolution"):
        load_npz(tmp_path)
    assert load_npz(tmp_path, resolution=8).resolution == (8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": np.array(CLASSES, dtype=object)}, r"of Python objects.*classes.astype\(str\)"),
        ({"names_train": np.array(["a"] * 12, dtype=object)}, r"names_train\.astype\(str\)"),
        ({"y_train": np.repeat([0, 1, 2], 4).astype(object)}, r"y_train\.astype\(numpy\.int64\)"),
        ({"x_train": np.zeros((12, 8, 8, 3), dtype=object)}, r"x_train\.astype\(numpy\.uint8\)"),
        ({"classes": np.array([b"z\xe9ro", b"one", b"two"])}, r"z.xe9ro', bytes that are not UTF-8.*latin-1"),
        ({"names_test": np.array([b"\xff"] * 6)}, "names_test has the name"),
        ({"classes": np.array([0.5, 1.5, 2.5])}, "classes must be a list of names, got float64"),
        ({"classes": np.array([True, False])}, "got bool"),
        ({"classes": np.array([CLASSES])}, r"shape \(1, 3\)"),
        ({"classes": np.array(["cat", "", "dog"])}, "`classes` has an empty name, for label 1"),
        ({"y_train": np.repeat(np.eye(3), 4, axis=0)}, r"of one-hot labels take y.argmax\(1\)"),
        ({"y_train": np.repeat([0.0, 1.0, 1.7], 4)}, "y_train must be 12 integers"),
        ({"y_train": np.repeat([0.0, 1.0, np.nan], 4)}, "y_train must be 12 integers"),
        ({"y_train": np.repeat([False, True, True], 4)}, "y_train must be 12 integers.*got bool"),
        ({"y_train": np.repeat(["0", "1", "2"], 4)}, "y_train must be 12 integers"),
        ({"y_train": np.repeat([1, 2, 3], 4)}, r"label 3 of train/8 is outside"),  # y_test counts from 0
        ({"y_train": np.repeat(np.array([0, 1, 2**64 - 1], np.uint64), 4)}, "outside"),
    ],
)  # fmt: skip
def test_arrays_of_the_wrong_kind_are_refused_by_name(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = write_npz(tmp_path, "photo", CLASSES, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_npz(tmp_path)
    assert str(path) in str(caught.value)


def test_class_names_in_utf8_bytes_or_numbers_are_read(tmp_path: Path) -> None:
    names = np.array(["z\u00e9ro".encode(), b"one", b"two"])
    assert load_npz(write_npz(tmp_path, "photo", CLASSES, classes=names)).class_names == (
        "z\u00e9ro",
        "one",
        "two",
    )
    assert load_npz(write_npz(tmp_path, "photo", CLASSES, classes=np.arange(3))).class_names == (
        "0",
        "1",
        "2",
    )


def one_up(**changes: object) -> dict[str, object]:
    return {"y_train": np.repeat([1, 2, 3], 4), "y_test": np.repeat([1, 2, 3], 2), **changes}


def test_labels_from_one_beside_labels_from_zero_have_two_readings(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES)
    write_npz(tmp_path, "sketch", CLASSES, **one_up())
    with pytest.raises(
        DataError,
        match=r"sketch\.npz: its labels are 1\.\.3.*photo\.npz.*3 may stand for 0",
    ):
        load_npz(tmp_path)
    names = {
        f"names_{part}": np.array([f"sketch/{CLASSES[label - 1]}/{row}" for row, label in enumerate(labels)])
        for part, labels in (("train", np.repeat([1, 2, 3], 4)), ("test", np.repeat([1, 2, 3], 2)))
    }
    write_npz(tmp_path, "sketch", CLASSES, **one_up(**names))
    data = load_npz(tmp_path)
    assert data.counts().tolist() == [[6, 6]] * 3
    assert data.select(data.domains == 1).train().labels.tolist() == np.repeat([0, 1, 2], 4).tolist()


def test_labels_from_one_may_be_the_numbers_that_the_classes_are_called_by(tmp_path: Path) -> None:
    digits = ["0", "1", "2"]
    path = write_npz(tmp_path, "svhn", digits, **one_up())
    with pytest.raises(
        DataError,
        match=r"1\.\.3 for classes called 0\.\.2.*from 1, or 3 may stand for 0",
    ):
        load_npz(path)
    path = write_npz(tmp_path, "svhn", ["1", "2", "3"], **one_up())
    assert load_npz(path).train().labels.tolist() == np.repeat([0, 1, 2], 4).tolist()


def test_classes_that_are_counted_in_two_ways_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path, "mnist", ["0", "1", "2"])
    write_npz(tmp_path, "svhn", ["1", "2", "3"])
    with pytest.raises(DataError, match=r"the classes are 1\.\.3 in the domain 'svhn' but 0\.\.2 in 'mnist'"):
        load_npz(tmp_path)
    assert load_npz(tmp_path, classes=["1", "2"]).counts().tolist() == [[6, 6]] * 2


def test_a_class_that_only_one_part_has_is_told(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", CLASSES, y_test=np.repeat([0, 1], 3))
    assert "domain 'photo' has no image of owl in its test part" in load_npz(tmp_path).warnings
