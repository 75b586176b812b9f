"""The distilled set: what is saved comes back bit for bit, what is not one is refused with advice."""

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from dgdd_fast.synthetic import distilled_set
from dgdd_fast.synthetic.distilled_set import DistilledSet, DistilledSetError

CLASSES = ("zero", "ein/s", "..")
DOMAINS = ("plain", "café")


def make_set(**changes):
    random = torch.Generator().manual_seed(7)
    values = {
        "images": torch.randn(12, 3, 8, 6, generator=random),
        "labels": torch.arange(3).repeat_interleave(4),
        "domains": torch.tensor([0, 0, 1, 1] * 3),
        "mean": (0.5, 0.4, 0.3),
        "std": tuple(torch.tensor([0.2, 0.21, 0.3]).tolist()),
        "class_names": CLASSES,
        "domain_names": DOMAINS,
        "flip_safe": False,
        "config": {"ipc": 4, "surgery": None, "network": {"width": 8}},
        "provenance": {"target": "street", "losses": [1.5, 0.1]},
    }
    return DistilledSet(**{**values, **changes})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "set.safetensors"
    make_set().save(path)
    return path


def rewrite(path, change):
    """The file at `path` with its description changed by `change(description)`."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:end])["__metadata__"]
    ((key, text),) = metadata.items()
    description = json.loads(text)
    change(description)
    path.write_bytes(safetensors.torch.save(safetensors.torch.load(data), {key: json.dumps(description)}))


def test_round_trip_is_bit_for_bit(saved):
    original, loaded = make_set(), DistilledSet.load(saved)
    for name in ("images", "labels", "domains"):
        assert torch.equal(getattr(original, name), getattr(loaded, name))
    for name in ("mean", "std", "class_names", "domain_names", "flip_safe", "config", "provenance"):
        assert getattr(original, name) == getattr(loaded, name)
    assert loaded.ipc == 4
    assert loaded.resolution == (8, 6)


def test_the_same_set_gives_the_same_bytes_and_no_other_file(saved):
    first = saved.read_bytes()
    DistilledSet.load(saved).save(saved)
    assert saved.read_bytes() == first
    assert list(saved.parent.iterdir()) == [saved]


def test_non_contiguous_images_are_saved_as_they_look(tmp_path):
    images = make_set().images.transpose(2, 3)
    make_set(images=images).save(tmp_path / "set")
    assert torch.equal(DistilledSet.load(tmp_path / "set").images, images)


def test_trains_as_a_torch_dataset(saved):
    data = DistilledSet.load(saved)
    images, labels, domains = next(iter(torch.utils.data.DataLoader(data, batch_size=5)))
    assert torch.equal(images, data.images[:5])
    assert labels.tolist() == [0, 0, 0, 0, 1]
    assert domains.tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -200, -1])
def test_truncated_file(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(DistilledSetError, match=r"set\.safetensors: damaged.*copy the file again"):
        DistilledSet.load(saved)


def test_any_flipped_bit_is_found(saved):
    data = saved.read_bytes()
    random = np.random.default_rng(0)
    places = [*range(0, 400, 7), *random.integers(400, len(data), 200)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(random.integers(8))
        saved.write_bytes(bytes(flipped))
        with pytest.raises(DistilledSetError, match=r"set\.safetensors: "):
            DistilledSet.load(saved)


def test_foreign_safetensors_file(tmp_path):
    path = tmp_path / "network.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(
        DistilledSetError, match=r"network\.safetensors: .*not a distilled set \(tensors: weight\)"
    ):
        DistilledSet.load(path)


def test_image_pickle_and_torch_file_are_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"images": 1}))
    torch.save(torch.zeros(2), tmp_path / "c.pt")
    for name, kind in (("a.png", "a PNG image"), ("b.pkl", "a pickle"), ("c.pt", "a zip archive")):
        with pytest.raises(DistilledSetError, match=rf"{name}: this is {kind}.*give the \.safetensors file"):
            DistilledSet.load(tmp_path / name)


def test_a_file_of_the_first_version_is_a_set_without_mosaics(saved):
    def to_version_1(description):
        del description["factor"]
        description["version"] = 1
        del description["sha256"]
        tensors = {name: getattr(make_set(), name) for name in ("images", "labels", "domains")}
        description["sha256"] = distilled_set._FILE._checksum(tensors, description)

    rewrite(saved, to_version_1)
    loaded = DistilledSet.load(saved)
    assert loaded.factor == 1
    assert torch.equal(loaded.training_images.images, make_set().images)


def test_mosaics_are_trained_on_tile_by_tile(tmp_path):
    tile_domains = torch.arange(48) % 2
    distilled = make_set(factor=2, domains=tile_domains)
    distilled.save(tmp_path / "set")
    loaded = DistilledSet.load(tmp_path / "set")
    images, labels, domains = loaded.training_images
    assert images.shape == (48, 3, 8, 6)
    assert torch.equal(labels, torch.arange(3).repeat_interleave(16))
    assert torch.equal(domains, tile_domains)
    # tile 21 is the upper right quarter of image 5
    quarter = distilled.images[5:6, :, :4, 3:]
    enlarged = torch.nn.functional.interpolate(quarter, scale_factor=2.0, mode="bilinear")[0]
    image, label, domain = loaded[21]
    torch.testing.assert_close(image, enlarged)
    assert (label, domain) == (1, 1)
    assert (loaded.ipc, len(loaded), loaded.resolution) == (4, 48, (8, 6))
    loaded.export_folder(tmp_path / "png")
    assert len(list((tmp_path / "png").glob("*/*/*.png"))) == 48
    loaded.contact_sheet(tmp_path / "sheet.png")


def test_a_set_whose_sides_do_not_make_tiles_is_refused():
    with pytest.raises(DistilledSetError, match="8 x 6 px cannot be cut into 4 x 4"):
        make_set(factor=4, domains=torch.zeros(12 * 16, dtype=torch.int64))
    with pytest.raises(DistilledSetError, match=r"domains must be int64 \[48\]"):
        make_set(factor=2)
    with pytest.raises(DistilledSetError, match="factor must be a whole number"):
        make_set(factor=2.0)


def test_newer_format_asks_for_an_upgrade(saved):
    rewrite(saved, lambda description: description.update(version=distilled_set._FILE.version + 1))
    with pytest.raises(DistilledSetError, match=r"set\.safetensors: format version 4.*upgrade dgdd-fast"):
        DistilledSet.load(saved)


def test_changed_description_is_found(saved):
    rewrite(saved, lambda description: description.update(flip_safe=True))
    with pytest.raises(DistilledSetError, match="not what was saved"):
        DistilledSet.load(saved)


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DistilledSet.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(12, 1, 8, 6)}, r"images must be float32 \[N, 3, H, W\]"),
        ({"images": torch.zeros(12, 3, 8, 6, dtype=torch.float64)}, "images must be float32"),
        ({"images": torch.zeros(0, 3, 8, 6)}, "images must be float32"),
        ({"images": torch.full((12, 3, 8, 6), float("nan"))}, "image 0 has a value that is NaN"),
        ({"labels": torch.zeros(12)}, r"labels must be int64 \[12\]"),
        ({"labels": torch.arange(12) % 3}, "labels must be sorted by class"),
        ({"domains": torch.full((12,), 2)}, r"domains must lie in 0 \.\. 1, got 2"),
        ({"domains": torch.zeros(11, dtype=torch.int64)}, r"domains must be int64 \[12\]"),
        ({"class_names": ("a", "b", "c", "d", "e")}, "12 images do not divide evenly among 5 classes"),
        ({"class_names": ("a", "a", "b")}, "class_names must not repeat"),
        ({"domain_names": ()}, "domain_names must be a tuple of one or more"),
        ({"mean": (0.5, 0.5)}, "mean must be a tuple of 3 finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"flip_safe": 1}, "flip_safe must be true or false"),
        ({"config": None}, "config must be a mapping"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DistilledSetError, match=message):
        make_set(**changes)


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(DistilledSetError, match="JSON"):
        make_set(provenance={"loss": value}).save(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_pixels_undo_the_normalisation():
    pixels = torch.arange(12 * 3 * 8 * 6).remainder(256).to(torch.uint8).reshape(12, 3, 8, 6)
    mean, std = (torch.tensor(getattr(make_set(), name)).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.equal(make_set(images=(pixels / 255 - mean) / std).pixels(), pixels)


def test_pixels_are_clamped():
    images = torch.full((12, 3, 8, 6), 100.0)
    images[1] = -100
    pixels = make_set(images=images).pixels()
    assert pixels[0].min() == 255
    assert pixels[1].max() == 0


def test_exported_images_are_the_pixels(tmp_path):
    distilled = make_set()
    distilled.export_folder(tmp_path / "png")
    pixels = distilled.pixels()
    files = sorted((tmp_path / "png").glob("*/*/*.png"), key=lambda file: file.name)
    assert [file.stem for file in files] == [f"{row:03d}" for row in range(12)]
    for row, file in enumerate(files):
        assert torch.equal(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1), pixels[row])
    folders = {file.parent.relative_to(tmp_path / "png").as_posix() for file in files}
    assert folders == {f"{domain}/{label}" for domain in DOMAINS for label in ("zero", "ein%2Fs", "%2E.")}


def test_export_does_not_mix_with_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        make_set().export_folder(tmp_path)


def test_a_contact_sheet_takes_any_names(tmp_path):
    """As a crafted set, or one of a version before, may have them."""
    names = ("two\nlines", "x" * 100_000, "\u202e\udce9")
    make_set(class_names=names).contact_sheet(tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width < 5000


def test_contact_sheet_has_a_row_for_each_class_and_a_group_for_each_domain(tmp_path):
    make_set().contact_sheet(tmp_path / "sheet.png")
    make_set(domains=torch.zeros(12, dtype=torch.int64)).contact_sheet(tmp_path / "wide.png")
    sheet, wide = Image.open(tmp_path / "sheet.png"), Image.open(tmp_path / "wide.png")
    assert sheet.height == wide.height > 3 * 64
    assert wide.width > 4 * 48
    colours = np.array(sheet).reshape(-1, 3)
    shown = {tuple(colour) for colour in make_set().pixels()[5].permute(1, 2, 0).reshape(-1, 3).tolist()}
    assert shown <= set(map(tuple, colours.tolist()))
