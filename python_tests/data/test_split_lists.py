"""Lists that say which image belongs to which part."""

from pathlib import Path

import pytest
from data_trees import write_image, write_tree
from folder_cases import write_lists

from dgdd_fast.data import DataError, load_folder


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
