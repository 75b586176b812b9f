"""What lies in a data folder beside the data: links, leftovers of operating systems, data in another form."""

import os
from pathlib import Path

import pytest
from data_trees import write_image, write_npz, write_tree

from dgdd_fast.data import DataError, load_dataset, load_folder
from dgdd_fast.steps import listening

CELLS = [f"{domain}/{label}" for domain in ("photo", "sketch") for label in ("cat", "dog")]


def notes_of(root: Path, about: str) -> list[str]:
    return [note for note in load_folder(root).warnings if about in note]


def test_a_folder_that_several_domains_link_to_counts_in_each(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", CELLS)
    write_tree(tmp_path / "shared", ["background"], images=3)
    for domain in ("photo", "sketch"):
        (root / domain / "background").symlink_to(tmp_path / "shared" / "background")
    (root / "site").mkdir()
    for label in ("cat", "dog"):
        (root / "site" / label).symlink_to(Path("../photo", label))
    data = load_folder(root)
    assert data.domain_names == ("photo", "site", "sketch")
    assert data.counts().tolist() == [[3, 0, 3], [5, 5, 5], [5, 5, 5]]
    assert sum("are one folder by links" in note for note in data.warnings) == 3
    assert any("photo/background, sketch/background" in note for note in data.warnings)


def test_a_whole_domain_may_be_a_link_to_another(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    (root / "again").symlink_to(root / "photo")
    assert load_folder(root).counts().tolist() == [[5, 5, 5], [5, 5, 5]]


def test_links_in_a_circle_end_and_are_told(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    (root / "photo" / "up").symlink_to(root)
    (root / "sketch" / "cat" / "here").symlink_to(".")
    data = load_folder(root)
    assert data.counts().tolist() == [[5, 5], [5, 5]]
    assert notes_of(root, "is not followed: photo/up, sketch/cat/here")


@pytest.mark.parametrize("place", ["photo/owl", "oil", "photo/cat/9.png"])
@pytest.mark.parametrize("leads_to", ["/nowhere/owl", "itself"])
def test_broken_links_are_named(tmp_path: Path, place: str, leads_to: str) -> None:
    root = write_tree(tmp_path, CELLS)
    (root / place).symlink_to((root / place).name if leads_to == "itself" else leads_to)
    with pytest.raises(DataError, match="a link that leads nowhere") as caught:
        load_folder(root)
    assert str(root / place) in str(caught.value)


def test_a_data_folder_that_is_a_broken_link_is_named(tmp_path: Path) -> None:
    for leads_to in ("gone", "data"):
        (tmp_path / "data").symlink_to(tmp_path / leads_to)
        with pytest.raises(DataError, match="data is a link that leads nowhere"):
            load_dataset(tmp_path / "data")
        (tmp_path / "data").unlink()


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    os.mkfifo(root / "photo/cat/9.png")
    with pytest.raises(DataError, match=r"9\.png: .* no plain file"):
        load_folder(root)


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir", "@tmp", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX",
        ".ipynb_checkpoints", ".git", ".AppleDouble", ".Spotlight-V100", ".Trash-1000", ".thumbnails", "old~",
    ],
)  # fmt: skip
def test_leftovers_of_systems_are_no_data_and_named_once(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path, CELLS)
    for place in (f"{name}/photo/x.png", f"photo/{name}/x.png", f"photo/cat/{name}/x.png"):
        write_image(root, place)
    data = load_folder(root)
    assert (data.domain_names, data.class_names) == (("photo", "sketch"), ("cat", "dog"))
    assert data.counts().tolist() == [[5, 5], [5, 5]]
    assert len(notes_of(root, "leftovers of operating systems")) == 1
    assert name in notes_of(root, "leftovers of operating systems")[0]


def test_leftovers_that_are_no_images_need_no_note(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    for place in (".DS_Store", "photo/Thumbs.db", "photo/cat/desktop.ini", "photo/._cat", "photo/cat/._0.png",
                  "photo/cat/0.png~", "__MACOSX/photo/cat/._0.png", ".git/config"):  # fmt: skip
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(b"junk")
    assert load_folder(root).counts().tolist() == [[5, 5], [5, 5]]
    assert not notes_of(root, "left out")


def test_hidden_images_are_told(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    write_image(root, "photo/cat/.9.png")
    assert notes_of(root, "left out: photo/cat/.9.png")


@pytest.mark.parametrize("name", ["oil.zip", "photo/owl.tar.gz", "photo/cat.npz", "train.parquet"])
def test_data_that_were_not_unpacked_are_told(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path, CELLS)
    (root / name).write_bytes(b"junk")
    assert notes_of(root, f"data that are no image files are left out: {name}")
    (root / "README.md").write_text("about")
    (root / "labels.json").write_text("{}")
    assert len(notes_of(root, "left out")) == 1


def test_a_class_of_files_that_are_no_images_is_told(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    (root / "photo" / "owl").mkdir()
    (root / "photo" / "owl" / "1.heic").write_bytes(b"junk")
    assert notes_of(root, "the folder photo/owl holds no images and is not counted as a class")


def test_data_of_which_most_would_be_left_out_are_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/photo/cat/x", "a/photo/dog/x"])
    write_tree(root, ["b/stray"], images=1)
    with pytest.raises(DataError, match=r"holds 1 images in domain/class folders .* and 10 elsewhere"):
        load_folder(root)


def test_hidden_npz_files_are_no_domains(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", ["cat", "dog"])
    (tmp_path / "._photo.npz").write_bytes(b"junk")
    assert load_dataset(tmp_path).domain_names == ("photo",)


def test_the_ending_of_an_npz_file_may_be_in_capitals(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", ["cat", "dog"])
    write_npz(tmp_path, "sketch", ["cat", "dog"]).rename(tmp_path / "sketch.NPZ")
    assert load_dataset(tmp_path).domain_names == ("photo", "sketch")
    assert load_dataset(tmp_path / "sketch.NPZ").domain_names == ("sketch",)


def test_npz_files_beside_image_folders_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", ["cat", "dog"])
    write_tree(tmp_path, ["sketch/cat", "sketch/dog"])
    with pytest.raises(DataError, match=r"photo\.npz.*and folders with images.*sketch/cat/0\.png"):
        load_dataset(tmp_path)


def test_what_lies_beside_npz_files_is_told(tmp_path: Path) -> None:
    write_npz(tmp_path, "photo", ["cat", "dog"])
    write_npz(tmp_path / "more", "oil", ["cat", "dog"])
    write_image(tmp_path, "preview.png")
    (tmp_path / "sketch.zip").write_bytes(b"junk")
    (tmp_path / "README.md").write_text("about")
    data = load_dataset(tmp_path)
    assert data.domain_names == ("photo",)
    note = next(note for note in data.warnings if "left out" in note)
    for name in ("more/oil.npz", "preview.png", "sketch.zip"):
        assert name in note
    assert "README" not in note


def test_it_is_told_how_many_folders_are_listed_of_those_that_are_known(tmp_path: Path) -> None:
    root = write_tree(tmp_path, CELLS)
    told: list[tuple[str, int, int]] = []
    with listening(lambda *step: told.append(step)):
        load_folder(root)
    listed = [(done, total) for step, done, total in told if step == "listing folders"]
    # The domains, then the classes in them: from then on their number is known.
    assert listed == [(0, 1), (1, 3), (2, 5), (3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]
