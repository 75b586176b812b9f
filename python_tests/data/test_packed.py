"""A packed data set is what it was packed from, bit for bit, or is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_trees import write_image, write_npz, write_tree
from PIL import Image

from dgdd_fast.data import DataError, DomainDataset, load_dataset, read_files
from dgdd_fast.data.image_rows import ImageRows
from dgdd_fast.data.pack import pack
from dgdd_fast.data.packed import PACKED_NAME
from dgdd_fast.data.pixel_store import LOG_NAME, PIXELS_NAME, PixelStore
from dgdd_fast.data.record import ImageRecord
from dgdd_fast.files import locked
from dgdd_fast.tensor_file import TensorFile

CELLS = [f"{domain}/{label}" for domain in ("photo", "sketch") for label in ("cat", "dog")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """148 pictures of 9 x 7 pixels: noise, grey, 16 bits, an animation, a transparent one."""
    random = np.random.default_rng(0)
    for cell in CELLS:
        for number in range(36):
            file = tmp_path / "pictures" / cell / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8)).save(file)
    write_image(tmp_path, "pictures/photo/dog/grey.jpg", mode="L")
    deep = random.integers(0, 65536, (7, 9)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "pictures/photo/cat/deep.png")
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "pictures/sketch/cat/two.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (9, 7), (10, 20, 30, 40)).save(tmp_path / "pictures/sketch/dog/glass.png")
    return tmp_path / "pictures"


def check_same(one: DomainDataset, other: DomainDataset) -> None:
    assert torch.equal(one.images[:], other.images[:])
    for part in ("labels", "domains", "is_test"):
        assert torch.equal(getattr(one, part), getattr(other, part))
    for part in ("name", "class_names", "domain_names", "item_names", "warnings"):
        assert getattr(one, part) == getattr(other, part)
    assert one.fingerprint() == other.fingerprint()
    for mine, its in zip(ImageRecord.of(one.train()), ImageRecord.of(other.train()), strict=True):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("resolution", [8, 16])
def test_packed_pictures_are_the_pictures(pictures: Path, tmp_path: Path, resolution: int) -> None:
    direct = load_dataset(pictures, resolution)
    assert len(direct.warnings) > 3
    packed = tmp_path / "packed"
    check_same(pack(pictures, packed, resolution), direct)
    check_same(load_dataset(packed), direct)
    check_same(load_dataset(packed, resolution), direct)
    packed = packed.rename(tmp_path / "moved")
    some = load_dataset(packed, domains=["sketch"], classes=["dog"])
    assert some.fingerprint() == load_dataset(pictures, resolution, ["sketch"], ["dog"]).fingerprint()


def test_packed_images_are_mapped_not_read(pictures: Path, tmp_path: Path) -> None:
    pack(pictures, tmp_path / "packed", 8)
    data = load_dataset(tmp_path / "packed")
    assert isinstance(data.images, torch.Tensor)
    with open("/proc/self/maps") as maps:
        assert str(tmp_path / "packed" / PIXELS_NAME) in maps.read()
    before = (tmp_path / "packed" / PIXELS_NAME).read_bytes()
    data.images[0] = 7  # of this process alone
    assert (tmp_path / "packed" / PIXELS_NAME).read_bytes() == before
    assert load_dataset(tmp_path / "packed").fingerprint() != data.fingerprint()


def test_other_data_are_packed_too(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        write_npz(tmp_path / "arrays", domain, ["cat", "dog"])
    check_same(pack(tmp_path / "arrays", tmp_path / "packed"), load_dataset(tmp_path / "arrays"))
    check_same(load_dataset(tmp_path / "packed"), load_dataset(tmp_path / "arrays"))
    with pytest.raises(ValueError, match="holds a packed data set"):
        pack("embedded-digits", tmp_path / "packed")


class Interruption(Exception):
    pass


def test_an_interrupted_packing_goes_on_where_it_stopped(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise Interruption

    with pytest.raises(Interruption):
        pack(pictures, tmp_path / "packed", 8, progress=stop)
    with pytest.raises(DataError, match="was not packed to its end"):
        load_dataset(tmp_path / "packed")
    kept = len(PixelStore(tmp_path / "packed").entries)
    assert 0 < kept < 148
    # as a crash leaves them: a batch that its line does not follow, and half a line
    for name in (PIXELS_NAME, LOG_NAME):
        with open(tmp_path / "packed" / name, "ab") as file:
            file.write(b"0" * 1000)
    seen: list[tuple[int, int]] = []
    check_same(
        pack(pictures, tmp_path / "packed", 8, progress=lambda *far: seen.append(far)),
        load_dataset(pictures, 8),
    )
    assert seen[0] == (0, 148 - kept)
    assert seen[-1] == (148 - kept, 148 - kept)
    monkeypatch.setattr(read_files, "read_image", None)  # nothing is decoded any more
    check_same(pack(pictures, tmp_path / "packed", 8), load_dataset(tmp_path / "packed"))


def test_only_pictures_that_changed_are_packed_again(pictures: Path, tmp_path: Path) -> None:
    pack(pictures, tmp_path / "packed", 8)
    before = load_dataset(tmp_path / "packed")
    first = before.images[:]
    file = pictures / "photo/cat/3.png"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    size = file.stat().st_size
    Image.new("RGB", (9, 7), "green").save(file)
    os.truncate(file, size)  # zeros behind the end: as large as before, and as old
    os.utime(file, ns=times)
    (pictures / "photo/cat/4.png").unlink()
    write_image(pictures, "photo/cat/new.png")
    seen: list[tuple[int, int]] = []
    packed = pack(pictures, tmp_path / "packed", 8, progress=lambda *far: seen.append(far))
    assert seen[0] == (0, 2)
    check_same(packed, load_dataset(pictures, 8))
    check_same(load_dataset(tmp_path / "packed"), packed)
    assert isinstance(load_dataset(tmp_path / "packed").images, ImageRows)
    assert torch.equal(before.images[:], first)  # who reads them still has what was there


def test_what_cannot_be_used_is_named_and_the_rest_is_kept(pictures: Path, tmp_path: Path) -> None:
    (pictures / "photo/cat/bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png is named like an image"):
        pack(pictures, tmp_path / "packed", 8)
    (pictures / "photo/cat/bad.png").unlink()
    seen: list[tuple[int, int]] = []
    check_same(
        pack(pictures, tmp_path / "packed", 8, progress=lambda *far: seen.append(far)),
        load_dataset(pictures, 8),
    )
    assert seen == []


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def other_version(packed: Path) -> None:
    log = packed / LOG_NAME
    log.write_bytes(b"")
    store = PixelStore(packed)
    store._write({"format": 2, "made": {}, "shape": [3, 8, 8]})


def pipe_for_log(packed: Path) -> None:
    (packed / LOG_NAME).unlink()
    os.mkfifo(packed / LOG_NAME)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pixel": (lambda packed: flip(packed / PIXELS_NAME, 192 * 70), "64 images in .* not what was packed"),
    "the log": (lambda packed: flip(packed / LOG_NAME, 300), "images.log, line 2: damaged"),
    "the labels": (lambda packed: flip(packed / PACKED_NAME, -10), "packed.safetensors: damaged"),
    "cut off pixels": (lambda packed: os.truncate(packed / PIXELS_NAME, 5000), "truncated: 5000 bytes"),
    "cut off labels": (lambda packed: os.truncate(packed / PACKED_NAME, 500), "packed.safetensors: damaged"),
    "cut off log": (lambda packed: os.truncate(packed / LOG_NAME, 300), "is not what packed.safetensors"),
    "a log without an end": (pipe_for_log, "images.log cannot be read: this is a pipe"),
    "no pixels": (lambda packed: (packed / PIXELS_NAME).unlink(), "images.bin is truncated: 0"),
    "another version": (other_version, "format version 2, and this dgdd-fast reads version 1"),
    "a later version": (
        lambda packed: TensorFile("dgdd_fast_packed", "", 2).write(packed / PACKED_NAME, {}, {}),
        "format version 2, but this dgdd-fast reads version 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused(pictures: Path, tmp_path: Path, damage: str) -> None:
    packed = tmp_path / "packed"
    pack(pictures, packed, 8)
    do, message = DAMAGES[damage]
    do(packed)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(packed)
    assert str(packed) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_resolution_or_source_is_refused(pictures: Path, tmp_path: Path) -> None:
    pack(pictures, tmp_path / "packed", 8)
    with pytest.raises(DataError, match="packed at 8 x 8 px, not at 16"):
        load_dataset(tmp_path / "packed", 16)
    with pytest.raises(DataError, match="holds images of another resolution: 8, not 16"):
        pack(pictures, tmp_path / "packed", 16)
    write_tree(tmp_path / "others", CELLS)
    with pytest.raises(DataError, match="holds images of another source"):
        pack(tmp_path / "others", tmp_path / "packed", 8)
    check_same(load_dataset(tmp_path / "packed"), load_dataset(pictures, 8))
    with pytest.raises(ValueError, match="is not empty, and no packed data set"):
        pack(pictures, tmp_path / "others", 8)
    with pytest.raises(ValueError, match="is inside of"):
        pack(pictures, pictures / "packed", 8)
    with locked(tmp_path / "packed"), pytest.raises(ValueError, match="another dgdd is at work"):
        pack(pictures, tmp_path / "packed", 8)


def test_without_room_what_is_there_stays(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(pictures, tmp_path / "packed", 8)
    before = load_dataset(tmp_path / "packed")
    for number in range(30):
        write_image(pictures, f"photo/cat/more{number}.png")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5000))
    with pytest.raises(OSError, match=r"30 images need 5\.76 kB, and the disk has room for 5 kB"):
        pack(pictures, tmp_path / "packed", 8)
    check_same(load_dataset(tmp_path / "packed"), before)
