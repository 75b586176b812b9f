"""A distilled set in the layouts of others: DM's .pt, NumPy's .npz, a folder for Hugging Face `datasets`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import DistillConfig, from_dict, method_label, method_name
from ..config.yaml_text import dump_yaml
from ..files import check_new_folder, write_atomically
from .distilled_set import DistilledSet, DistilledSetError
from .foreign_sets import OWN_KEY

_LARGE_VALUES = ("learnt_from",)  # of the provenance: digests of images, for machines


def export_dm(distilled: DistilledSet, path: Path) -> None:
    """Write ``{"data": [[images, labels]], "accs_all_exps": {}}``, as DC, DSA and DM do: images float32
    [M, 3, H, W] to train on, normalised, mosaics decoded; labels int64 [M], or soft ones float32 [M, K],
    which readers of hard labels alone refuse.

    Under "dgdd_fast", where those tools do not look, stands the rest, so that `read_foreign_set` gives the
    same set again.
    """
    images, labels, _ = distilled.training_images
    own: dict[str, Any] = {"description": _json(distilled), "domains": distilled.domains.cpu()}
    if distilled.factor > 1:
        own |= {"mosaics": distilled.images.cpu(), "labels": distilled.labels.cpu()}
    wanted = labels if distilled.soft_labels is None else distilled.soft_labels
    pair = [images.cpu().contiguous(), wanted.cpu()]
    file = io.BytesIO()
    torch.save({"data": [pair], "accs_all_exps": {}, OWN_KEY: own}, file)
    write_atomically(path, file.getvalue())


def export_numpy(distilled: DistilledSet, path: Path) -> None:
    """Write an .npz file: images float32 [N, 3, H, W] as they are stored, normalised, labels int64 [N], or
    soft ones float32 [M, K] of the images to train on, domains, mean, std, class_names, domain_names, and all
    of the set but its tensors as JSON in `description`."""
    tensors = {name: getattr(distilled, name).cpu().numpy() for name in ("images", "labels", "domains")}
    if distilled.soft_labels is not None:
        tensors["labels"] = distilled.soft_labels.cpu().numpy()
    lists = {
        name: np.array(getattr(distilled, name)) for name in ("mean", "std", "class_names", "domain_names")
    }
    arrays = {**tensors, **lists, "description": np.array(_json(distilled))}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_atomically(path, file.getvalue())


def export_huggingface(distilled: DistilledSet, folder: Path) -> None:
    """Write a folder that ``datasets.load_dataset("imagefolder", data_dir=folder)`` reads: train/NNN.png, 8
    bits, the images to train on; in train/metadata.jsonl label, class and domain of each, and the soft label
    where there are some; and a card, README.md, that says how the set came about.

    Raises FileExistsError where `folder` has content already.
    """
    check_new_folder(folder)
    _, labels, domains = distilled.training_images
    files = distilled.write_images(folder / "train" for _ in labels)
    rows = [
        {
            "file_name": file.name,
            "label": label,
            "class": distilled.class_names[label],
            "domain": distilled.domain_names[domain],
        }
        for file, label, domain in zip(files, labels.tolist(), domains.tolist(), strict=True)
    ]
    if distilled.soft_labels is not None:
        for row, soft in zip(rows, distilled.soft_labels.tolist(), strict=True):
            row["soft_label"] = soft
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_atomically(folder / "train" / "metadata.jsonl", lines.encode())
    write_atomically(folder / "README.md", dataset_card(distilled).encode())


def dataset_card(distilled: DistilledSet) -> str:
    """The README.md of a data set on the Hugging Face hub: a head in YAML, then recipe, provenance and
    protocol. The licence is the user's to fill in."""
    height, width = distilled.resolution
    provenance = {name: value for name, value in distilled.provenance.items() if name not in _LARGE_VALUES}
    imported = distilled.provenance.get("imported")
    if imported is None:
        how = f"Method: {method_label(method_name(from_dict(DistillConfig, distilled.config)))}."
    else:
        how = "The set was made by another tool and imported: see `imported` under Provenance."
    target = distilled.provenance.get("target")
    held_out = f" The domain held out was {_code(target)}." if target else ""
    mosaics = (
        f" They are the tiles of {len(distilled.images)} mosaics, enlarged." if distilled.factor > 1 else ""
    )
    keeps = "keeps" if distilled.flip_safe else "does not keep"
    kind, field = "hard labels", ""
    if distilled.soft_labels is not None:
        kind = "its soft labels, the predictions of a network trained on all real images,"
        field = "* `soft_label`: a probability for each class, by label\n"
    head = {
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "domain-generalization"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}],
    }
    return f"""---
# license: fill in what the terms of the original images allow
{_yaml(head)}---

# Distilled images

{len(distilled)} images of {height} x {width} px to train on, {distilled.ipc} stored images for each of
{len(distilled.class_names)} classes.{mosaics}{held_out}

## Recipe

{how} All settings of the distillation:

```yaml
{_yaml(distilled.config)}```

## Provenance

```yaml
{_yaml(provenance)}```

## Protocol

Networks train from scratch on these images alone, with {kind} and differentiable siamese augmentation
(`dgdd evaluate`), and are tested once, after the last epoch. Every number is to stand beside that of as many
random real images under the same protocol.

Test images must be normalised as these are, by channel: mean {_numbers(distilled.mean)}, standard deviation
{_numbers(distilled.std)} of pixels in [0, 1]. An image {keeps} its class when it is mirrored. The PNG files
are rounded to 8 bits and clamped; a .safetensors file of the set has the exact values.

## Fields

* `image`
* `label`: 0 to {len(distilled.class_names) - 1}
* `class`: the label's name
{field}* `domain`: the source domain that the image was assigned to

Classes, by label:

{_listed(distilled.class_names)}

## Licence

To be filled in by whoever publishes these images: what they were distilled from has terms of its own.
"""


def _json(distilled: DistilledSet) -> str:
    try:
        return json.dumps(distilled.description(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DistilledSetError(f"config and provenance must hold JSON values only: {error}") from error


def _yaml(values: dict[str, Any]) -> str:
    return dump_yaml(json.loads(json.dumps(values))).decode()  # tuples as lists


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _listed(names: tuple[str, ...]) -> str:
    return "\n".join(f"{number}. {_code(name)}" for number, name in enumerate(names))


def _code(name: str) -> str:
    """A name in a line of Markdown, whatever it is made of."""
    return f"`{' '.join(name.replace('`', chr(39)).split())}`"
