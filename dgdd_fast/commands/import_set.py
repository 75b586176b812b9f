"""`dgdd import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.run import NO_TARGET, SET_NAME, SHEET_NAME, check_free
from .options import SOURCE_HELP, names_in, note_strays
from .terminal import console, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..data import DomainDataset
    from ..synthetic.distilled_set import DistilledSet
    from ..synthetic.foreign_sets import ForeignSet

FORMATS = "auto, dc, dsa, dm, datadam, mtt, ncfm, idc, numpy"
# Mean and standard deviation as the tools that are read normalise with them.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_CHOICES = f"{', '.join(STATISTICS)}, embedded-digits, data:PATH"


def import_set(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What another tool wrote; of MTT, a folder too.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder for the set.")],
    format_: Annotated[str, typer.Option("--format", help=f"{FORMATS}.")] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help=f"What the set was distilled from, for its classes. {SOURCE_HELP}"
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The domain of the data that was held out, if any.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Of label 0, 1 ... Default: those of --data.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="That the images are normalised with, of pixels in [0, 1]."),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="The same.")] = None,
    normalised_like: Annotated[
        str | None, typer.Option(metavar="WHAT", help=f"In place of --mean and --std: {_CHOICES}.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="Of the file: normalised or pixels (in [0, 1]). Default: pixels for idc and ncfm."),
    ] = None,
    factor: Annotated[
        int | None, typer.Option(min=1, help="Tiles along each side of an image; idc and ncfm need it.")
    ] = None,
    experiment: Annotated[
        int, typer.Option(min=-1, help="Which of several sets in the file, from 0. Default: the last.")
    ] = -1,
) -> None:
    """Take a distilled set of another tool, to be evaluated as ours are.

    Nothing in the file is run. What it does not say must be said: the classes (--data
    or --classes) and what its images are normalised with (--normalised-like, or
    --mean and --std). docs/interoperability.md says what each format holds. What
    `dgdd export` wrote needs none of this.

    \b
    dgdd import res_DM_CIFAR10_ConvNet_10ipc.pt --data cifar10/ --normalised-like cifar10 --out runs/dm
    dgdd import distilled_data/data_20000.pt --format ncfm --factor 2 --data pacs/ --target sketch \\
        --normalised-like imagenet --out runs/ncfm
    dgdd evaluate runs/dm
    """
    from ..synthetic.distilled_set import DistilledSetError
    from ..synthetic.foreign_sets import read_foreign_set

    if scale not in (None, "normalised", "pixels"):
        raise ValueError(f"--scale must be normalised or pixels, got {scale!r}")
    check_free(out)
    foreign = read_foreign_set(file, format_, experiment)
    if foreign.own is not None:
        told = {
            "--data": data, "--target": target, "--classes": classes, "--mean": mean, "--std": std,
            "--normalised-like": normalised_like, "--scale": scale, "--factor": factor,
        }  # fmt: skip
        if given := [name for name, value in told.items() if value is not None]:
            raise ValueError(
                f"{file} is what dgdd export wrote, and says all of itself: leave {', '.join(given)} out"
            )
        distilled = foreign.own
    else:
        try:
            distilled = _told(foreign, file, data, target, classes, mean, std, normalised_like, scale, factor)
        except DistilledSetError as error:
            raise ValueError(f"{file}: {error}") from error
    distilled.save(out / SET_NAME)
    distilled.contact_sheet(out / SHEET_NAME)
    height, width = distilled.resolution
    names = distilled.class_names
    console.print(
        f"{foreign.layout}: {len(names)} classes x {distilled.ipc} images of {height} x {width} px; "
        f"label 0 is {names[0]}, label {len(names) - 1} is {names[-1]}"
    )
    if foreign.sets > 1:
        note(
            f"the file holds {foreign.sets} sets; this is number {foreign.experiment} "
            f"(--experiment 0 .. {foreign.sets - 1})"
        )
    if foreign.own is None:
        _note_range(foreign.images, distilled)
    if foreign.learning_rate is not None:
        note(
            "the set comes with a learning rate for the networks: dgdd evaluate --set "
            f"evaluate.learning_rate={foreign.learning_rate:.6g}"
        )
    console.print(f"written: {out / SET_NAME}, {out / SHEET_NAME}")
    console.print(
        f"next:    dgdd evaluate {out}" + ("" if data and foreign.own is None else " --data SOURCE")
    )


def _note_range(images: Tensor, distilled: DistilledSet) -> None:
    """Say where values are not those of images, scaled as the options or the format say."""
    assert distilled.imported is not None
    if distilled.imported["scale"] != "pixels":
        note_strays(distilled)
        return
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        outside = float(((images < 0) | (images > 1)).float().mean())
        note(
            f"the pixels are {low:.3g} .. {high:.3g}, {outside:.1%} of them outside of [0, 1]: where that is "
            "more than rounding, they have another range; for [-1, 1] give --scale normalised --mean 0.5 "
            "--std 0.5"
        )


def _told(
    foreign: ForeignSet,
    file: Path,
    data: str | None,
    target: str | None,
    classes: str | None,
    mean: str | None,
    std: str | None,
    normalised_like: str | None,
    scale: str | None,
    factor: int | None,
) -> Any:
    """The foreign set with what the options say of it."""
    from ..data import load_dataset, may_be_mirrored
    from ..synthetic.foreign_sets import IN_PIXELS, imported_set

    height, width = foreign.images.shape[2:]
    mosaics = foreign.layout in IN_PIXELS
    if factor is None and mosaics:
        raise ValueError(
            f"{file}: a file of {foreign.layout} does not tell of how many tiles an image is made: give "
            "--factor, as the run had it (1 for none, often 2, or 3 for ImageNet)"
        )
    dataset = None
    if data is not None:
        dataset = load_dataset(data, height if height == width else None)
    elif target is not None:
        raise ValueError("--target is a domain of the data: name them too (--data)")
    sources = _sources(dataset, target)
    names = names_in(classes)
    if names is None:
        if dataset is None:
            raise ValueError(
                f"{file} does not name its {int(foreign.labels.max()) + 1} classes: give --data (what it was "
                "distilled from, whose classes are taken in their order) or --classes NAME,..."
            )
        names = dataset.class_names
    order = names if dataset is None else dataset.only_classes(names).class_names
    mean_, std_ = _statistics(file, mean, std, normalised_like, target, height if height == width else None)
    told: dict[str, Any] = {
        "file": file.name,
        "sha256": foreign.digest,
        "format": foreign.layout,
        "scale": scale or ("pixels" if mosaics else "normalised"),
    }
    if foreign.sets > 1:
        told |= {"sets": foreign.sets, "experiment": foreign.experiment}
    if foreign.learning_rate is not None:
        told["learning_rate"] = foreign.learning_rate
    if data is not None:
        told["data"] = data
    return imported_set(
        foreign,
        class_names=names,
        class_order=order,
        mean=mean_,
        std=std_,
        pixels=told["scale"] == "pixels",
        factor=factor or 1,
        flip_safe=may_be_mirrored(names),
        provenance={
            "imported": told,
            **({} if sources is None else {"sources": sources}),
            "target": None if target == NO_TARGET else target,
        },
    )


def _sources(dataset: DomainDataset | None, target: str | None) -> list[str] | None:
    if dataset is None:
        return None
    if target is None or target == NO_TARGET:
        return list(dataset.domain_names)
    return list(dataset.leave_out(target).sources_train.domain_names)


def _statistics(
    file: Path,
    mean: str | None,
    std: str | None,
    like: str | None,
    target: str | None,
    resolution: int | None,
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation, three each."""
    if (mean is None) != (std is None) or (mean is not None and like is not None):
        raise ValueError("give --mean and --std, both, or else --normalised-like")
    if mean is not None and std is not None:
        means, stds = _three("--mean", mean), _three("--std", std)
        if not all(0 <= value <= 1 for value in means) or not all(0 < value <= 1 for value in stds):
            raise ValueError(
                f"--mean and --std are of pixels in [0, 1], got {mean} and {std}: divide those of pixels in "
                "0..255 by 255"
            )
        return means, stds
    if like is None:
        raise ValueError(
            f"{file} does not say what its images are normalised with: give --normalised-like ({_CHOICES}), "
            "or --mean R,G,B --std R,G,B"
        )
    if like in STATISTICS:
        return STATISTICS[like]
    from ..data import load_dataset

    kind, colon, source = like.partition(":")
    if like == "embedded-digits":
        source = like
    elif kind != "data" or not colon:
        raise ValueError(f"--normalised-like must be one of {_CHOICES}, got {like!r}")
    dataset = load_dataset(source, resolution)
    held_out = None if target == NO_TARGET else target
    learnt = dataset.train() if held_out is None else dataset.leave_out(held_out).sources_train
    found = learnt.channel_statistics()
    return found[0].tolist(), found[1].tolist()


def _three(option: str, text: str) -> tuple[float, ...]:
    """Three numbers, or one for all channels."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise ValueError(f"{option} must be three numbers with commas, or one, got {text!r}")
    return numbers
