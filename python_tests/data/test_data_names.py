"""Names: equal and different ones, whatever wrote them, and wrong ones, which are met with the right."""

import os
import unicodedata
from pathlib import Path

import pytest
from data_trees import write_npz, write_tree

from dgdd_fast.data import DataError, from_iterable, load_folder, load_npz
from dgdd_fast.data.names import check_spelling, chosen_names, plain_name

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dog", "Dog"),
        ("dog", "dog "),
        (" dog", "dog"),
        ("dog", "d\u200bog"),
        ("dog", "\uff44og"),
        ("real world", "real_world"),
        ("real-world", "Real  World"),
        ("1", "01"),
        ("class_7", "class 007"),
        ("1", "1.0"),
        (COMPOSED, DECOMPOSED),
        ("stra\u00dfe", "STRASSE"),
    ],
)
def test_names_that_are_easily_mistaken_are_refused(one: str, other: str) -> None:
    with pytest.raises(DataError, match=r"here has the class names .* and .*, which differ in .* only"):
        check_spelling("class", ["owl", one, other], "here")


@pytest.mark.parametrize(
    ("one", "other"), [("1", "10"), ("0", "00x"), ("-1", "1"), ("c", "c++"), ("a1", "a 1"), ("e", "\u00e9")]
)
def test_names_that_differ_are_left_alone(one: str, other: str) -> None:
    check_spelling("class", [one, other, one], "here")


def test_every_loader_refuses_them_for_domains_and_classes(tmp_path: Path) -> None:
    write_npz(tmp_path / "domains", "photo", ["cat", "dog"])
    write_npz(tmp_path / "domains", "Photo", ["cat", "dog"])
    with pytest.raises(DataError, match="domain names 'Photo' and 'photo', which differ in case"):
        load_npz(tmp_path / "domains")
    write_npz(tmp_path / "classes", "photo", ["cat", "dog"])
    write_npz(tmp_path / "classes", "sketch", ["cat ", "dog"])
    with pytest.raises(DataError, match="class names 'cat' and 'cat ', which differ in spaces"):
        load_npz(tmp_path / "classes")
    pixels = load_npz(tmp_path / "classes" / "photo.npz").images[0].permute(1, 2, 0).numpy()
    rows = [(pixels, 0, "photo"), (pixels, 1, "photo")]
    with pytest.raises(DataError, match="class names 'cat' and 'cat '"):
        from_iterable(rows, class_names=["cat", "cat "])
    with pytest.raises(DataError, match="domain names 'photo' and 'photo '"):
        from_iterable([*rows, (pixels, 1, "photo ")])
    write_tree(tmp_path / "folders", ["a/dog", "b/dog "])
    with pytest.raises(DataError, match="class names 'dog' and 'dog '"):
        load_folder(tmp_path / "folders")


def test_the_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    root = write_tree(tmp_path, [f"photo/{COMPOSED}", "photo/dog", f"sketch/{DECOMPOSED}", "sketch/dog"])
    data = load_folder(root)
    assert data.class_names == (COMPOSED, "dog")
    assert data.counts().tolist() == [[5, 5], [5, 5]]
    assert any(unicodedata.normalize("NFC", f"sketch/{COMPOSED}") in note for note in data.warnings)
    for spelt in (COMPOSED, DECOMPOSED):
        assert load_folder(root, classes=[spelt]).class_names == (COMPOSED,)
        assert data.only_classes([spelt]).class_names == (COMPOSED,)
    write_tree(root, [f"sketch/{COMPOSED}"])
    with pytest.raises(DataError, match=r"sketch holds 'caf.' twice, in two Unicode forms"):
        load_folder(root)


def test_the_unicode_forms_of_a_domain_and_of_lists_do_not_matter(tmp_path: Path) -> None:
    root = write_tree(tmp_path, [f"{DECOMPOSED}/dog", f"{DECOMPOSED}/{COMPOSED}"])
    for part, numbers in (("train", range(4)), ("test", [4])):
        lines = [
            f"{COMPOSED}/{name}/{number}.png {label}\n"
            for label, name in enumerate((DECOMPOSED, "dog"))
            for number in numbers
        ]
        (root / f"{DECOMPOSED}_{part}.txt").write_text("".join(lines))
    data = load_folder(root)
    assert (data.domain_names, data.class_names) == ((COMPOSED,), (COMPOSED, "dog"))
    assert data.test().counts().tolist() == [[1], [1]]
    write_npz(root / "arrays", DECOMPOSED, [DECOMPOSED, "dog"])
    write_npz(root / "arrays", "photo", [COMPOSED, "dog"])
    data = load_npz(root / "arrays", domains=[COMPOSED, "photo"])
    assert (data.domain_names, data.class_names) == ((COMPOSED, "photo"), (COMPOSED, "dog"))


def test_names_that_are_not_utf8_work_and_are_shown_in_bytes(tmp_path: Path) -> None:
    root = write_tree(tmp_path, [f"{domain}/{name}" for domain in "ab" for name in ("cat", "dog")])
    for domain in "ab":
        folder = os.fsencode(root / domain)
        os.rename(folder + b"/cat", folder + b"/caf\xe9")
        os.rename(folder + b"/caf\xe9/0.png", folder + b"/caf\xe9/\xff.png")
    data = load_folder(root)
    assert data.class_names == (r"caf\xe9", "dog")
    assert data.counts().tolist() == [[5, 5], [5, 5]]
    assert r"a/caf\xe9/\xff.png" in data.item_names
    assert any(r"folder a/caf\xe9 is not named in UTF-8" in note for note in data.warnings)
    for name in (*data.item_names, *data.warnings):
        name.encode()
    bad = Path(os.fsdecode(os.fsencode(root) + b"/a/caf\xe9/\xff.png"))
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a/caf\\xe9/\\xff\.png is named like an image"):
        load_folder(root)


def test_control_characters_are_not_obeyed(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["photo/\x1b[2Jcat", "photo/dog"])
    assert load_folder(root).class_names == (r"\x1b[2Jcat", "dog")


def test_names_are_of_one_line_and_run_in_one_direction() -> None:
    assert plain_name("c\nat\tdog\r") == r"c\nat\tdog\r"
    assert plain_name("cat\u2028\u0085") == r"cat\u2028\x85"
    assert plain_name("\u202egnp.tac\u2069") == r"\u202egnp.tac\u2069"
    assert plain_name("\u05d7\u05ea\u05d5\u05dc") == "\u05d7\u05ea\u05d5\u05dc"


def test_lists_name_images_whose_folders_have_tabs_in_their_names(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["photo/wild\tcat", "photo/dog"], images=3)
    for part, numbers in (("train", (0, 1)), ("test", (2,))):
        lines = [
            f"photo/{name}/{n}.png\t{label}"
            for label, name in enumerate(("dog", "wild\tcat"))
            for n in numbers
        ]
        (root / f"photo_{part}.txt").write_text("\n".join(lines))
    data = load_folder(root)
    assert data.class_names == ("dog", r"wild\tcat")
    assert data.test().counts().tolist() == [[1], [1]]


def test_plain_names_are_left_alone() -> None:
    for name in ("dog", "photo[hd]", COMPOSED, "\u732b", "a b"):
        assert plain_name(name) == name


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    names = ["clip art", "photo", "sketch"]
    with pytest.raises(DataError, match=r"no domain 'Photos'; it has .* \(did you mean photo\?\)"):
        chosen_names("domain", names, ["Photos"], "data")
    with pytest.raises(DataError, match=r"\(did you mean clip art\?\)"):
        chosen_names("domain", names, ["clip_art"], "data")
    with pytest.raises(DataError, match=r"it has clip art, photo, sketch$"):
        chosen_names("domain", names, ["xyz"], "data")
    many = [f"class{number}" for number in range(345)]
    with pytest.raises(DataError, match=r"class29 and 315 more \(did you mean class300\?\)"):
        chosen_names("class", many, ["clas300"], "data")
