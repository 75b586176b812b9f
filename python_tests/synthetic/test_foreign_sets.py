"""Sets of other tools: what their files hold is what is read, and what they should not hold is refused."""

import os
import pickle
import time
import zipfile

import numpy as np
import pytest
import torch
from damage import outcomes
from foreign_files import foreign_images, write_list_of_sets, write_pair, write_two_files

from dgdd_fast.synthetic.distilled_set import DistilledSetError
from dgdd_fast.synthetic.foreign_sets import imported_set, read_foreign_set


def told(**changes):
    """What a file does not say of a set of `foreign_images`."""
    names = ("cat", "dog", "owl")
    values = {
        "class_names": names,
        "class_order": names,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "pixels": False,
        "factor": 1,
        "flip_safe": True,
        "provenance": {"imported": {}},
    }
    return {**values, **changes}


@pytest.mark.parametrize("layout", ["auto", "dc", "dsa", "dm", "datadam"])
@pytest.mark.parametrize(("experiment", "seed"), [(-1, 2), (0, 0), (1, 1)])
def test_a_list_of_sets_gives_the_one_that_is_chosen(tmp_path, layout, experiment, seed):
    path = write_list_of_sets(tmp_path / "res.pt", [foreign_images(seed=seed) for seed in range(3)])
    found = read_foreign_set(path, layout, experiment)
    images, labels = foreign_images(seed=seed)
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, labels)
    assert (found.sets, found.experiment) == (3, seed)
    assert found.layout == ("dm" if layout == "auto" else layout)


@pytest.mark.parametrize("layout", ["auto", "mtt"])
def test_two_files_are_found_by_one_of_them_or_by_their_folder(tmp_path, layout):
    images, labels = foreign_images()
    path = write_two_files(tmp_path, images.requires_grad_(), labels)
    for given in (path, tmp_path):
        found = read_foreign_set(given, layout)
        assert torch.equal(found.images, images.detach())
        assert not found.images.requires_grad
        assert torch.equal(found.labels, labels)
        assert (found.layout, found.learning_rate) == ("mtt", None)


def test_two_files_with_a_learning_rate_and_images_turned_back_from_zca(tmp_path):
    images, labels = foreign_images()
    path = write_two_files(tmp_path, images, labels, "5000", rate=0.25)
    turned = path.rename(tmp_path / "images_zca_5000.pt")
    assert read_foreign_set(turned).learning_rate == 0.25
    with pytest.raises(DistilledSetError, match=r"labels_best\.pt beside it"):
        read_foreign_set(turned.rename(tmp_path / "images_best.pt"))


@pytest.mark.parametrize("layout", ["idc", "ncfm"])
def test_mosaics_of_pixels_are_normalised_and_come_apart(tmp_path, layout):
    images, labels = foreign_images()
    pixels = images.sigmoid()
    found = read_foreign_set(write_pair(tmp_path / "data.pt", pixels, labels), layout)
    distilled = imported_set(found, **told(pixels=True, factor=2))
    std, mean = (torch.tensor(told()[name]).view(3, 1, 1) for name in ("std", "mean"))
    torch.testing.assert_close(distilled.images, (pixels - mean) / std)
    assert len(distilled) == 4 * 6
    assert (distilled.ipc, distilled.factor, distilled.domain_names) == (2, 2, ("imported",))
    torch.testing.assert_close(distilled.pixels(), (pixels * 255).round().to(torch.uint8), atol=1, rtol=0)


def test_images_are_sorted_by_class_in_the_order_of_the_data(tmp_path):
    images, _ = foreign_images()
    labels = torch.tensor([2, 0, 1, 1, 2, 0])
    path = write_list_of_sets(tmp_path / "res.pt", [(images, labels.int())])
    distilled = imported_set(read_foreign_set(path), **told(class_order=("owl", "cat", "dog")))
    assert distilled.class_names == ("owl", "cat", "dog")
    assert torch.equal(distilled.images, images[[0, 4, 1, 5, 2, 3]])


def test_grey_images_get_three_equal_channels(tmp_path):
    images, labels = foreign_images(channels=1)
    path = write_list_of_sets(tmp_path / "res.pt", [(images.double(), labels)])
    distilled = imported_set(read_foreign_set(path), **told())
    assert torch.equal(distilled.images, images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 3])}, "1 of 6 labels are outside 0 .. 2"),
        ({"labels": torch.tensor([-1, 0, 1, 1, 2, 2])}, "1 of 6 labels are outside 0 .. 2"),
        ({"labels": torch.tensor([0, 0, 0, 1, 1, 2])}, "'owl' has 1, 'cat' has 3"),
        ({"images": torch.rand(6, 3, 8, 8)}, "these are pixels in .* --scale pixels"),
    ],
)
def test_what_does_not_fit_what_is_told_is_refused(tmp_path, change, message):
    images, labels = foreign_images()
    pair = {"images": images, "labels": labels, **change}
    found = read_foreign_set(write_list_of_sets(tmp_path / "res.pt", [pair.values()]))
    with pytest.raises(DistilledSetError, match=message):
        imported_set(found, **told())


def test_normalised_images_are_no_pixels(tmp_path):
    images, labels = foreign_images()
    found = read_foreign_set(write_pair(tmp_path / "data.pt", images, labels))
    with pytest.raises(DistilledSetError, match=r"no pixels in .* --scale normalised"):
        imported_set(found, **told(pixels=True))


IMAGES, LABELS = foreign_images()
BROKEN = IMAGES.clone()
BROKEN[4, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": [[BROKEN, LABELS]]}, "image 4 has a value that is NaN"),
        ({"data": []}, "one or more"),
        ({"data": [[IMAGES]]}, r"a set must be \[images, labels\]"),
        ({"data": [[IMAGES.flatten(1), LABELS]]}, r"must be \[N, 3, H, W\].*got \[6, 192\]"),
        ({"data": [[IMAGES, LABELS[:5]]]}, "6 whole numbers, one for each image"),
        ({"data": [[IMAGES, LABELS.float()]]}, "6 whole numbers, one for each image"),
        ({"data": [[IMAGES, torch.rand(6, 3)]]}, "the labels are soft"),
        ({"data": [[(IMAGES * 9).byte(), LABELS]]}, "floating-point"),
        ({"data": [[IMAGES.to_sparse(), LABELS]]}, "plain tensor"),
        ({"data": [[torch.zeros(1).expand(10**9, 3, 32, 32), LABELS]]}, "a fraction of them"),
        ({"data": [["images", "labels"]]}, "plain tensor, got a str"),
        ({"images": IMAGES}, "it holds a mapping with images; expected"),
        ([IMAGES, LABELS, LABELS], "it holds a list; expected"),
        (IMAGES, "it holds images alone"),
        ("a text", "it holds a str; expected"),
    ],
)
def test_a_file_of_another_content_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "res.pt"
    torch.save(content, path)
    with pytest.raises(DistilledSetError, match=message) as error:
        read_foreign_set(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 500


def test_a_format_is_held_to_what_the_file_is(tmp_path):
    path = write_list_of_sets(tmp_path / "res.pt", [foreign_images()])
    with pytest.raises(DistilledSetError, match="in the format of dm, not of idc"):
        read_foreign_set(path, "idc")
    with pytest.raises(DistilledSetError, match="the format must be auto, dm"):
        read_foreign_set(path, "kip")
    with pytest.raises(DistilledSetError, match=r"1 sets in it: choose --experiment 0 \.\. 0"):
        read_foreign_set(path, experiment=1)
    with pytest.raises(DistilledSetError, match=r"no file images_\*\.pt"):
        read_foreign_set(tmp_path)


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
def test_code_in_a_file_is_not_run(tmp_path, save):
    path, trace = tmp_path / "res.pt", tmp_path / "trace"
    save({"data": [[IMAGES if save is torch.save else 1, Command(trace)]]}, path)
    with pytest.raises(DistilledSetError, match=r"system|nothing that torch\.save wrote"):
        read_foreign_set(path)
    assert not trace.exists()


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    whole = write_list_of_sets(tmp_path / "whole.pt", [(torch.zeros(300, 3, 32, 32), LABELS)])
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in source.infolist():
            packed.writestr(member.filename, source.read(member))
    assert path.stat().st_size < whole.stat().st_size / 100
    with pytest.raises(DistilledSetError, match="is compressed in it"):
        read_foreign_set(path)


def test_an_archive_of_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.array([Command(tmp_path / "trace")]), labels=0, domains=0, description="{}")
    with pytest.raises(DistilledSetError, match="allow_pickle"):
        read_foreign_set(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_refused_or_read_as_something_whole(tmp_path, legacy):
    path = tmp_path / "res.pt"
    content = {"data": [[IMAGES, LABELS]], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_foreign_set(path).images, IMAGES)
    counted = outcomes(path, lambda: read_foreign_set(path), is_whole, 60)
    assert counted["refused"] > 10


def is_whole(found):
    return len(found.images) == len(found.labels) and bool(torch.isfinite(found.images).all())


@pytest.mark.parametrize("content", [b"", b"data: digits\n", b"\x80\x02]."])
def test_a_file_that_torch_did_not_write_is_refused(tmp_path, content):
    path = tmp_path / "res.pt"
    path.write_bytes(content)
    with pytest.raises(DistilledSetError, match=r"nothing that torch.save wrote$"):
        read_foreign_set(path)


def called(name, *sizes):
    """The pickle of a call with numbers."""
    return f"c{name}\n(".encode() + b"".join(b"J" + size.to_bytes(4, "little") for size in sizes) + b"tR"


DOUBLED = b"K\x01\x85q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(60))


# Each is a few hundred kB at most, and would take time without end, the whole stack, or gigabytes.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}" + DOUBLED + b"K\x01s", "tuples in tuples"),
        (b"}K\x01" + b"\x85" * 50_000 + b"K\x01s", "tuples in tuples"),
        (b"]" * 200_000 + b"a" * 199_999, "more than 100000 steps"),
        (called("torch\nTensor", 2**20, 3, 64, 64), "running torch.Tensor, which is not done"),
        (called("__builtin__\nbytearray", 2**30), "running .*bytearray, which is not done"),
    ],
)
@pytest.mark.parametrize("legacy", [True, False])
def test_a_small_file_takes_neither_long_nor_much(tmp_path, content, message, legacy):
    path = tmp_path / "set.pt"
    if legacy:
        head = b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(head + b"\x80\x02" + content + b"." + pickle.dumps([], protocol=2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
            archive.writestr("archive/version", "3\n")
    began = time.process_time()
    with pytest.raises(DistilledSetError, match=message):
        read_foreign_set(path)
    assert time.process_time() - began < 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "images",
    [
        lambda: torch.empty(4, 3, 2, 2, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(3, 2, 2)] * 4),
    ],
)
def test_tensors_without_values_in_a_row_are_refused(tmp_path, images):
    torch.save([images(), torch.arange(4)], tmp_path / "set.pt")
    with pytest.raises(DistilledSetError, match=r"must be a plain tensor|which is not done"):
        read_foreign_set(tmp_path / "set.pt")
