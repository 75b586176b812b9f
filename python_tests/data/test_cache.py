"""The cache of decoded images: never stale, never in the way."""

import os
import threading
from pathlib import Path

import pytest
import torch
from command_line import dgdd
from data_trees import write_image, write_tree
from PIL import Image

from dgdd_fast.data import DataError, load_dataset, read_files
from dgdd_fast.data.cache import VARIABLE, cache_folder, clear_cache, folder_for
from dgdd_fast.data.image_rows import ImageRows
from dgdd_fast.data.pixel_store import LOG_NAME, PIXELS_NAME
from dgdd_fast.steps import listening

CELLS = [f"{domain}/{label}" for domain in ("photo", "sketch") for label in ("cat", "dog")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "pictures", CELLS, images=20)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Decoded(list[int]):
    """How many files each load decoded."""

    def load(self, pictures: Path, resolution: int = 8, **chosen: list[str]):
        self.append(0)
        return load_dataset(pictures, resolution, progress=self._note, **chosen)

    def _note(self, done: int, total: int) -> None:
        self[-1] = total


def test_a_folder_is_decoded_once(pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = Decoded()
    first, again = decoded.load(pictures), decoded.load(pictures)
    part = decoded.load(pictures, domains=["photo"])
    larger = decoded.load(pictures, 16)
    assert decoded == [80, 0, 0, 80]
    assert isinstance(again.images, ImageRows)
    monkeypatch.setenv(VARIABLE, "off")
    for found, wanted in (
        (first, load_dataset(pictures, 8)),
        (again, load_dataset(pictures, 8)),
        (part, load_dataset(pictures, 8, ["photo"])),
        (larger, load_dataset(pictures, 16)),
    ):
        assert found.fingerprint() == wanted.fingerprint()
        assert found.item_names == wanted.item_names
        assert found.warnings == wanted.warnings
        assert isinstance(wanted.images, torch.Tensor)


def test_what_changed_is_decoded_again(pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = Decoded()
    decoded.load(pictures)
    write_image(pictures, "photo/cat/new.png")
    Image.new("RGB", (8, 8), "green").save(pictures / "photo/dog/3.png")
    os.utime(pictures / "sketch/cat/0.png")
    (pictures / "sketch/cat/1.png").unlink()
    (pictures / "sketch/dog/1.png").rename(pictures / "sketch/cat/1.png")
    found = decoded.load(pictures)
    assert decoded == [80, 0 + 4]
    monkeypatch.setenv(VARIABLE, "off")
    assert found.fingerprint() == load_dataset(pictures, 8).fingerprint()


def test_another_decoding_shares_nothing(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Decoded()
    decoded.load(pictures)
    monkeypatch.setattr(read_files, "DECODING", "another")
    decoded.load(pictures)
    assert decoded == [80, 80]


def test_a_damaged_cache_costs_time_and_nothing_else(pictures: Path, cache: Path) -> None:
    decoded = Decoded()
    wanted = decoded.load(pictures).fingerprint()
    (store,) = cache.iterdir()

    def flip(name: str, place: int) -> None:
        content = bytearray((store / name).read_bytes())
        content[place] ^= 1
        (store / name).write_bytes(content)

    for damage, cost in (
        (lambda: flip(PIXELS_NAME, 192 * 70), 16),
        (lambda: None, 0),
        (lambda: flip(LOG_NAME, 300), 80),
        (lambda: os.truncate(store / PIXELS_NAME, 1000), 80),
        (lambda: (store / LOG_NAME).unlink(), 80),
        (lambda: (store / PIXELS_NAME).unlink(), 80),
        (lambda: None, 0),
    ):
        damage()
        assert decoded.load(pictures).fingerprint() == wanted
        assert decoded[-1] == cost


def test_it_does_not_grow_without_end(pictures: Path, cache: Path) -> None:
    for number in range(12):
        for file in pictures.rglob("*.png"):
            os.utime(file, ns=(number, number))
        load_dataset(pictures, 8)
    (store,) = cache.iterdir()
    assert (store / PIXELS_NAME).stat().st_size <= 3 * 80 * 192


def test_files_that_cannot_be_used_are_named_each_time(pictures: Path, cache: Path) -> None:
    (pictures / "photo/cat/bad.png").write_bytes(b"no picture")
    decoded = Decoded()
    for _ in range(2):
        with pytest.raises(DataError, match=r"bad\.png"):
            decoded.load(pictures)
    assert decoded == [81, 1]


def test_without_room_or_permission_it_is_read_in_memory(
    pictures: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(cache))

    cache.write_text("a file in its place")
    with pytest.warns(UserWarning, match="not kept in the cache .*cache.*: Not a directory"):
        assert isinstance(load_dataset(pictures, 8).images, torch.Tensor)
    text = dgdd("data", pictures, "--resolution", 8).output
    assert "note: decoded images are not kept in the cache" in text
    assert "UserWarning" not in text
    cache.unlink()
    monkeypatch.setattr(read_files.PixelStore, "append", refuse)
    with pytest.warns(UserWarning, match="not kept in the cache .*No space left on device"):
        assert isinstance(load_dataset(pictures, 8).images, torch.Tensor)


def test_it_is_for_many_images_or_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"source": "/somewhere/pictures", "resolution": 8, "decoding": "1"}
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dgdd-fast"
    assert folder_for(made, 500) is None
    folder = folder_for(made, 501)
    assert folder is not None
    assert folder.parent == tmp_path / "dgdd-fast"
    assert folder.name.startswith("pictures-")
    monkeypatch.setenv(VARIABLE, "off")
    assert folder_for(made, 501) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    assert folder_for(made, 1) == tmp_path / "named" / folder.name


def test_clearing_deletes_what_is_the_caches(pictures: Path, cache: Path) -> None:
    assert clear_cache() == 0
    data = load_dataset(pictures, 8)
    (cache / "notes.txt").write_text("mine")
    (cache / "other").mkdir()
    wanted = data.fingerprint()
    assert clear_cache() > 80 * 192
    assert sorted(path.name for path in cache.iterdir()) == ["notes.txt", "other"]
    assert data.fingerprint() == wanted  # who has them mapped goes on


def test_readers_side_by_side_decode_once(pictures: Path, cache: Path) -> None:
    decoded: list[int] = []
    prints: list[str] = []

    def read() -> None:
        mine = Decoded()
        prints.append(mine.load(pictures).fingerprint())
        decoded.extend(mine)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(prints)) == 1
    assert len(prints) == 4
    assert sorted(decoded) == [0, 0, 0, 80]


def test_it_is_told_how_many_files_were_looked_at_for_changes_and_each_once(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dataset(pictures, 8)
    looked: list[Path] = []
    stamp = read_files._stamp
    monkeypatch.setattr(read_files, "_stamp", lambda file: looked.append(file) or stamp(file))
    monkeypatch.setattr(read_files, "_LISTED", 30)
    told: list[tuple[str, int, int]] = []
    with listening(lambda *step: told.append(step)):
        load_dataset(pictures, 8)
    assert [step[1:] for step in told if step[0] == "looking for changed pictures"] == [
        (0, 80), (30, 80), (60, 80), (80, 80),
    ]  # fmt: skip
    assert sorted(looked) == sorted(pictures.rglob("*.png"))


@pytest.mark.parametrize("value", ["off", "OFF", "0", "No", "false"])
def test_the_cache_is_off_however_that_is_written(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert cache_folder() is None


def test_a_damaged_cache_is_deleted_too(pictures: Path, cache: Path) -> None:
    Decoded().load(pictures)
    (store,) = cache.iterdir()
    (store / PIXELS_NAME).unlink()
    assert clear_cache() > 0
    assert list(cache.iterdir()) == []
