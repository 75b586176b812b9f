"""Rows of (image, label, domain) from lists, generators and Hugging Face splits."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_trees import write_image
from PIL import Image

from dgdd_fast.data import DataError, from_iterable

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


def rows(labels: list[Any] | None = None, domains: list[Any] | None = None) -> list[tuple[Any, Any, Any]]:
    """20 rows: two classes in two domains, five each."""
    labels = labels or [place // 5 % 2 for place in range(20)]
    domains = domains or ["photo" if place < 10 else "sketch" for place in range(20)]
    return list(zip(PIXELS, labels, domains, strict=True))


def test_tuples_round_trip() -> None:
    data = from_iterable(rows(), class_names=["cat", "dog"])
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert data.labels.tolist() == [place // 5 % 2 for place in range(20)]
    assert data.domains.tolist() == [0] * 10 + [1] * 10
    assert (data.class_names, data.domain_names) == (("cat", "dog"), ("photo", "sketch"))
    assert data.test().counts().tolist() == [[1, 1], [1, 1]]
    assert any("no test rows are given" in warning for warning in data.warnings)


def test_a_generator_and_test_rows() -> None:
    def stream() -> Iterator[tuple[Any, Any, Any]]:
        yield from rows()

    data = from_iterable(stream(), test_rows=rows()[::5] + rows()[1::5], class_names=["cat", "dog"])
    assert data.warnings == ()
    assert (len(data.train()), len(data.test())) == (20, 8)
    assert data.item_names[20] == "test row 0"


def test_dictionaries_with_keys_of_their_own() -> None:
    dictionaries = [{"img": image, "y": label, "site": domain, "extra": 1} for image, label, domain in rows()]
    data = from_iterable(dictionaries, image_key="img", label_key="y", domain_key="site")
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), PIXELS)
    with pytest.raises(DataError, match=r"row 0 has no 'image', it has img, y, site, extra; name the keys"):
        from_iterable(dictionaries)


def test_every_kind_of_image(tmp_path: Path) -> None:
    path = write_image(tmp_path, "one.png", size=(6, 6))
    buffer = BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "PNG")
    encoded = buffer.getvalue()
    images: list[Any] = [
        Image.fromarray(PIXELS[0]),
        torch.from_numpy(PIXELS[0]).permute(2, 0, 1),
        torch.from_numpy(PIXELS[0]).permute(2, 0, 1).float() / 255,
        encoded,
        {"bytes": encoded, "path": None},
        {"bytes": None, "path": str(path)},
        path,
    ]
    data = from_iterable([(image, "cat", "photo") for image in images])
    for row in range(5):
        assert np.array_equal(data.images[row].permute(1, 2, 0).numpy(), PIXELS[0])
    assert torch.equal(data.images[5], data.images[6])


@dataclass
class ClassLabel:
    names: list[str]


class Split(list[Any]):
    """Looks like a split of a Hugging Face dataset: an iterable of dictionaries with features."""

    def __init__(self, entries: list[Any], **names: list[str]) -> None:
        super().__init__(entries)
        self.features = {"image": object()} | {key: ClassLabel(value) for key, value in names.items()}


def test_a_hugging_face_split_brings_its_names() -> None:
    entries = [
        {"image": Image.fromarray(image), "label": label, "domain": place // 10}
        for place, (image, label, _) in enumerate(rows())
    ]
    data = from_iterable(Split(entries, label=["zebra", "ape"], domain=["real", "drawn"]), name="hub")
    assert (data.name, data.class_names, data.domain_names) == ("hub", ("zebra", "ape"), ("real", "drawn"))
    assert data.labels.tolist() == [place // 5 % 2 for place in range(20)]


def test_numbers_without_names_are_their_own_names() -> None:
    data = from_iterable(rows(labels=[3 if place % 2 else 10 for place in range(20)]))
    assert data.class_names == ("3", "10")
    assert data.labels.tolist() == [place % 2 == 0 for place in range(20)]
    assert not data.flip_safe


def test_names_are_in_natural_order_or_as_given() -> None:
    labels = ["c10" if place % 2 else "c9" for place in range(20)]
    assert from_iterable(rows(labels=labels)).class_names == ("c9", "c10")
    data = from_iterable(rows(labels=labels), class_names=["c10", "c9"])
    assert data.class_names == ("c10", "c9")
    assert data.labels.tolist() == [place % 2 == 0 for place in range(20)]


def test_labels_from_one_are_repaired_only_where_that_is_sure() -> None:
    from_one = [1 + place // 5 % 2 for place in range(20)]
    data = from_iterable(rows(labels=from_one), class_names=["cat", "dog"])
    assert data.labels.tolist() == [label - 1 for label in from_one]
    assert any("the labels count from 1" in warning for warning in data.warnings)
    with pytest.raises(
        DataError, match=r"the labels are 1\.\.2 for 3 names; expected 0\.\.2, with 0 among them"
    ):
        from_iterable(rows(labels=from_one), class_names=["cat", "dog", "owl"])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0] * 19 + [5], ["cat", "dog"], r"row 19: the labels are 0\.\.5 for 2 names"),
        ([0] * 19 + [-1], ["cat", "dog"], r"row 19: the labels are -1\.\.0"),
        (["cat"] * 19 + ["cow"], ["cat", "dog"], "row 19 has the label 'cow', which is none of cat, dog"),
        (["cat"] * 19 + ["Cat"], None, "'Cat' and 'cat', which differ in case only"),
        (["cat"] * 19 + [1], None, "row 0 has the label 'cat'; expected whole numbers throughout"),
        ([0] * 19 + [None], None, "row 19 has the label None"),
        ([0.5] * 20, None, "row 0 has the label 0.5"),
        (
            [0] * 19 + [np.float32(1.7)],
            None,
            r"row 19 has the label np.float32\(1.7\); expected whole numbers",
        ),
        ([0] * 19 + [torch.tensor(1.7)], None, "row 19 has the label tensor"),
        ([0] * 19 + [float("nan")], None, "row 19 has the label nan"),
        ([0] * 19 + [1.0], None, "row 19 has the label 1.0"),
        ([0] * 19 + [True], None, "row 19 has the label True"),
        ([0] * 19 + [np.True_], None, "row 19 has the label np.True_"),
        ([0] * 19 + [torch.tensor(True)], None, r"row 19 has the label tensor\(True\)"),
        ([np.eye(3)[1]] * 20, None, "row 0 has the label array.*of a one-hot vector its argmax"),
        ([[0, 1]] * 20, None, r"row 0 has the label \[0, 1\].*one-hot"),
        ([torch.eye(300)[1]] * 20, None, r"row 0 has the label tensor\(\[0.*\.\.\.; expected.*one-hot"),
        ([0] * 19 + [-1], None, "row 19 has the label -1, which often stands for none"),
        ([0] * 20, [0, 1], r"class_names must be names, got \[0, 1\]"),
        (["0"] * 19 + ["2"], ["0", "1"], "row 19 has the label '2', which is none of 0, 1"),
        ([b"cat"] * 20, None, "row 0 has the label b'cat'"),
        ([1, 2] * 10, ["0", "1"], "count from 1, or 2 may stand for 0"),
        ([0] * 20, ["cat", "dog"], "the class 'dog' has no image in any domain"),
    ],
)
def test_bad_labels_are_refused_with_their_row(
    labels: list[Any], names: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        from_iterable(rows(labels=labels), class_names=names)


def test_whole_numbers_of_every_type_are_labels() -> None:
    for one in (np.int64(1), np.uint8(1), torch.tensor(1), np.array(1), np.array([1])):
        labels = [0 if place // 5 % 2 else one for place in range(20)]
        assert from_iterable(rows(labels=labels)).labels.tolist() == [
            1 - place // 5 % 2 for place in range(20)
        ]


def test_numbers_that_no_row_has_are_told() -> None:
    data = from_iterable(rows(labels=[3 * (place % 2) for place in range(20)]))
    assert data.class_names == ("0", "3")
    assert "no row has the label 1, 2" in data.warnings
    plus_minus = from_iterable(rows(labels=[2 * (place % 2) - 1 for place in range(20)]))
    assert plus_minus.class_names == ("-1", "1")


def test_domains_are_whole_numbers_or_names() -> None:
    with pytest.raises(DataError, match=r"row 10 has the domain 0\.5"):
        from_iterable(rows(domains=[0] * 10 + [0.5] * 10))
    with pytest.raises(DataError, match=r"row 10 has the domain np\.float64"):
        from_iterable(rows(domains=[0] * 10 + [np.float64(1.5)] * 10))


def test_numbers_counted_in_two_ways_are_refused() -> None:
    labels = [place // 5 % 2 if place < 10 else 1 + place // 5 % 2 for place in range(20)]
    with pytest.raises(DataError, match=r"are 1\.\.2 in the domain 'sketch' but 0\.\.1 in 'photo'"):
        from_iterable(rows(labels=labels))


def test_bad_rows_are_refused_by_number() -> None:
    good = rows()
    with pytest.raises(DataError, match="row 1 must be"):
        from_iterable([good[0], (PIXELS[0], 1)])
    with pytest.raises(DataError, match="row 0: an image must be"):
        from_iterable([(3, 1, "a")])
    with pytest.raises(DataError, match="row 1 is 5 x 4 pixels, the rows before it are 6 x 6"):
        from_iterable([good[0], (PIXELS[0, :4, :5], 1, "photo")])
    assert from_iterable([good[0], (PIXELS[0, :4, :5], 1, "photo")], resolution=6).resolution == (6, 6)
    with pytest.raises(DataError, match="holds no rows"):
        from_iterable([])
    with pytest.raises(DataError, match="test row 0 is named like an image but is none"):
        from_iterable(good, test_rows=[(b"junk", 0, "photo")])


def test_float_images_must_agree_on_their_range() -> None:
    floats = [(image.astype(np.float32), label, domain) for image, label, domain in rows()]
    assert np.array_equal(from_iterable(floats).images.permute(0, 2, 3, 1).numpy(), PIXELS)
    black = (np.zeros((6, 6, 3), np.float32), 0, "photo")
    assert len(from_iterable([*floats, black])) == 21
    dim = (np.full((6, 6, 3), 0.5, np.float32), 0, "photo")
    with pytest.raises(DataError, match=r"row 20 has float pixels in 0\.\.1 and row 0 in 0\.\.255; give all"):
        from_iterable([*floats, dim])
    with pytest.raises(DataError, match="row 0 has 108 pixels that are NaN"):
        from_iterable([(np.full((6, 6, 3), np.nan), 0, "photo")])


def test_a_broken_pillow_image_is_refused_with_its_row() -> None:
    buffer = BytesIO()
    Image.fromarray(PIXELS[0]).resize((60, 60)).save(buffer, "PNG")
    lazy = Image.open(BytesIO(buffer.getvalue()[:500]))
    with pytest.raises(DataError, match="row 0 is truncated or damaged"):
        from_iterable([(lazy, 0, "photo")])
