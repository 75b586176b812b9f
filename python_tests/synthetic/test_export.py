"""What is exported for other tools is what they read, and comes back as the same set."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_runs import toy_set
from toy_data import toy_domains

from dgdd_fast.synthetic.distilled_set import DistilledSet, DistilledSetError
from dgdd_fast.synthetic.export import dataset_card, export_dm, export_huggingface, export_numpy
from dgdd_fast.synthetic.foreign_sets import read_foreign_set


def example(factor=1):
    """A set whose pixels leave [0, 1] here and there, of images or of mosaics."""
    plain = toy_set(toy_domains())
    return DistilledSet(
        images=plain.images * 1.5,
        labels=plain.labels,
        domains=plain.domains.repeat_interleave(factor**2),
        mean=plain.mean,
        std=plain.std,
        class_names=plain.class_names,
        domain_names=plain.domain_names,
        flip_safe=False,
        config={"ipc": 6, "objective": "dm", "surgery": {"alpha": 1.0}},
        provenance={"target": "street", "sources": ["domain0"], "learnt_from": {"digests": "A" * 5000}},
        factor=factor,
    )


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(("export", "layout"), [(export_dm, "dm"), (export_numpy, "numpy")])
def test_import_of_an_export_is_the_same_set(tmp_path, export, layout, factor):
    distilled = example(factor)
    export(distilled, tmp_path / "set")
    found = read_foreign_set(tmp_path / "set")
    assert found.layout == layout
    distilled.save(tmp_path / "before")
    found.own.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


@pytest.mark.parametrize("factor", [1, 2])
def test_the_layout_of_dm_is_what_its_readers_expect(tmp_path, factor):
    distilled = example(factor)
    export_dm(distilled, tmp_path / "set.pt")
    content = torch.load(tmp_path / "set.pt", weights_only=True)
    images, labels = content["data"][-1]
    assert torch.equal(images, distilled.training_images.images)
    assert torch.equal(labels, distilled.training_images.labels)
    assert content["accs_all_exps"] == {}


def test_changed_images_of_mosaics_are_not_mistaken_for_them(tmp_path):
    path = tmp_path / "set.pt"
    export_dm(example(2), path)
    content = torch.load(path, weights_only=True)
    content["data"][0][0][0] += 1
    torch.save(content, path)
    with pytest.raises(DistilledSetError, match="changed after the export"):
        read_foreign_set(path)


def test_arrays_are_plain_and_named(tmp_path):
    distilled = example()
    export_numpy(distilled, tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        pixels = arrays["images"] * arrays["std"].reshape(3, 1, 1) + arrays["mean"].reshape(3, 1, 1)
        assert list(arrays["class_names"]) == list(distilled.class_names)
        assert json.loads(str(arrays["description"]))["provenance"]["target"] == "street"
    np.testing.assert_allclose(pixels, distilled.training_pixels.images.numpy(), atol=1e-5)


def test_an_array_that_is_missing_is_named(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(DistilledSetError, match="has no array labels"):
        read_foreign_set(tmp_path / "set.npz")


@pytest.mark.parametrize("factor", [1, 2])
def test_a_hugging_face_folder_has_images_rows_and_a_card(tmp_path, factor):
    distilled = example(factor)
    export_huggingface(distilled, tmp_path / "hf")
    rows = [json.loads(line) for line in (tmp_path / "hf/train/metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len(distilled)
    pixels, labels, domains = distilled.training_pixels
    for row, image, label, domain in zip(rows, pixels, labels, domains, strict=True):
        read = np.asarray(Image.open(tmp_path / "hf/train" / row["file_name"])) / 255
        assert np.abs(read - image.clamp(0, 1).permute(1, 2, 0).numpy()).max() < 0.51 / 255
        assert (row["label"], row["class"]) == (label, distilled.class_names[label])
        assert row["domain"] == distilled.domain_names[domain]
    with pytest.raises(FileExistsError):
        export_huggingface(distilled, tmp_path / "hf")


def test_the_card_states_recipe_provenance_and_protocol_and_no_licence():
    head, _, text = dataset_card(example()).removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head)["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    assert "license" not in yaml.safe_load(head)
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    recipe, provenance = map(yaml.safe_load, blocks)
    assert recipe == example().config
    assert provenance == {"target": "street", "sources": ["domain0"]}
    assert "DM+SGS" in text
    assert "domain held out was `street`" in text


def test_names_of_classes_stay_names_in_the_card():
    text = dataset_card(dataclasses.replace(example(), class_names=("a`b", "two\nlines", "<b>")))
    assert "0. `a'b`\n1. `two lines`\n2. `<b>`\n" in text


def test_hugging_face_datasets_reads_the_folder_back(tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    distilled = example()
    export_huggingface(distilled, tmp_path / "hf")
    for arguments in (("imagefolder",), (str(tmp_path / "hf"),)):
        where = {"data_dir": str(tmp_path / "hf")} if arguments == ("imagefolder",) else {}
        read = datasets.load_dataset(*arguments, **where, split="train", cache_dir=tmp_path / "cache")
        assert len(read) == len(distilled)
        assert read["label"][:] == distilled.labels.tolist()
        pixels = np.stack([np.asarray(image) for image in read["image"]])
        assert np.array_equal(pixels, distilled.pixels().permute(0, 2, 3, 1).numpy())
        assert read["domain"][0] == distilled.domain_names[int(distilled.domains[0])]
