"""The page about a grid: tables and pictures."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from ..analysis.channels import stability
from ..analysis.decomposition import decompose_images
from ..config.run import CONFIG_NAME, SET_NAME, SHEET_NAME, read_run_config
from ..data import DomainDataset
from ..experiments.grid import GridIndex
from ..experiments.plan import POOLS_FOLDER, Part, parts_of
from ..experts import ExpertPool
from ..files import read_file
from ..synthetic.distilled_set import FAR, DistilledSet, DistilledSetError
from ..synthetic.mosaics import tiles
from ..synthetic.source_data import SourceData, source_data
from .channel_figure import channel_figure
from .curves import png_of, sensitivity_figure, time_figure
from .features import feature_figure
from .figures import draw_decomposition
from .html import Section, write_page
from .table import ResultTable, result_table
from .table_formats import format_table

DECOMPOSED_IMAGES = 4


class Example(NamedTuple):
    """The distilled set of a row at the first seed and budget of the first column."""

    label: str
    folder: Path
    images: DistilledSet


def write_report(
    path: Path, index: GridIndex, dataset: DomainDataset | None, against: str | None = None
) -> list[Section]:
    """Write the page about a grid, finished or not, and return its sections.

    Args:
        path: the HTML file.
        index: of the grid.
        dataset: its data, for the pictures that need real images; None leaves those out.
        against: as in `result_table`, which may raise ValueError.
    """
    table = result_table(index, against)
    sections = list(_sections(index, table, dataset))
    write_page(path, table.title, sections, table=format_table(table, "html"))
    return sections


def _sections(index: GridIndex, table: ResultTable, dataset: DomainDataset | None) -> Iterator[Section]:
    sensitivity, time = sensitivity_figure(index, table), time_figure(index, table)
    if sensitivity is not None:
        caption = "Accuracy by setting, one varied at a time; mean and deviation over the seeds."
        yield Section("Sensitivity", [(caption, png_of(sensitivity))])
    if time is not None:
        caption = "Accuracy against the median time of an evaluation, as it was on the machine that ran it."
        yield Section("Accuracy against training time", [(caption, png_of(time))])
    part = parts_of(index.study, tuple(index.data["domains"]))[0]
    examples, damaged = _examples(index, part)
    where = f"{part.column}, {index.study.ipc[0]} per class, seed {index.study.seeds[0]}"
    sheets = [(_caption(example, where), sheet_of(example.folder, example.images)) for example in examples]
    yield Section("Distilled images", sheets, damaged or ("" if examples else "No set is there yet."))
    if not examples:
        return
    yield drawn("Gradient decomposition", lambda: _decompositions(examples, part, dataset, where))
    yield drawn("Stability of channel scores", lambda: _channels(index, examples, where))
    yield drawn("Styles of real and synthetic images", lambda: _features(examples, part, dataset, where))


def sheet_of(folder: Path, images: DistilledSet) -> bytes:
    """The contact sheet in the folder of a run, which may show the images before, too; drawn without them
    where there is none or it is damaged."""
    try:
        png = read_file(folder / SHEET_NAME)
        with Image.open(io.BytesIO(png)) as sheet:
            sheet.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's, for a broken PNG
        return images.contact_sheet_png()
    return png


def _caption(example: Example, where: str) -> str:
    strays = example.images.strays
    beyond = f"; {strays} images have values beyond {FAR:g} standard deviations" if strays else ""
    return f"{example.label}: {where}{beyond}"


def _source_data(example: Example, part: Part, dataset: DomainDataset | None) -> SourceData:
    """The sources, split as they were when the set was distilled. Raises DataError for other data."""
    return source_data(example.images, _needed(dataset).only_domains(part.sources))


def drawn(title: str, draw: Callable[[], list[tuple[str, bytes]]]) -> Section:
    """A section, or the reason why there is none."""
    try:
        return Section(title, draw())
    except (ValueError, OSError) as error:
        return Section(title, missing=f"Not drawn: {error}.")


def _examples(index: GridIndex, part: Part) -> tuple[list[Example], str]:
    """What there is to show, and which sets are damaged and what to do about them."""
    examples, damaged = [], []
    labels = {row["key"]: row["label"] for row in index.rows if not row["sweep"]}
    study, seen = index.study, set()
    for entry in index.entries:
        wanted = (entry.column, entry.ipc, entry.seed) == (part.column, study.ipc[0], study.seeds[0])
        if not wanted or entry.row not in labels or entry.set_folder is None or entry.set_folder in seen:
            continue
        seen.add(entry.set_folder)
        folder = index.folder / entry.set_folder
        if (folder / SET_NAME).exists():
            try:
                images = DistilledSet.load(folder / SET_NAME)
            except DistilledSetError as error:
                damaged.append(
                    f"Left out: {labels[entry.row]}, {error}; or delete the file and run dgdd grid again."
                )
            else:
                examples.append(Example(labels[entry.row], folder, images))
    return examples, " ".join(damaged)


def _needed(dataset: DomainDataset | None) -> DomainDataset:
    if dataset is None:
        raise ValueError("the data are not at hand; name them with --data")
    return dataset


def tiles_to_show(images: DistilledSet) -> tuple[list[int], Tensor, list[str]]:
    """Some tiles, spread over the classes (images, where they are no mosaics): their places in the order of
    `mosaics`, their pixels, and class and domain of each."""
    _, labels, domains = images.training_images
    count = len(labels)
    rows = sorted({place * count // DECOMPOSED_IMAGES for place in range(min(DECOMPOSED_IMAGES, count))})
    names = [
        f"{images.class_names[int(labels[row])]}, {images.domain_names[int(domains[row])]}" for row in rows
    ]
    return rows, tiles(images.pixels(), images.factor)[rows], names


def decomposition(images: DistilledSet, sources: SourceData) -> tuple[str, bytes]:
    """What spectral surgery makes of the gradients of some images: a caption and a PNG."""
    rows, pixels, names = tiles_to_show(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decomposition.png"
        draw_decomposition(path, pixels, decompose_images(images, sources.data.train(), rows), names)
        png = path.read_bytes()
    kind = "images" if images.factor == 1 else "tiles"
    caption = f"the gradients of {len(rows)} {kind} after the last iteration"
    return caption + (f". {sources.note}." if sources.note else ""), png


def _decompositions(
    examples: list[Example], part: Part, dataset: DomainDataset | None, where: str
) -> list[tuple[str, bytes]]:
    pictures = []
    for example in examples:
        images = example.images
        if not images.config.get("surgery"):
            continue
        sources = _source_data(example, part, dataset)
        caption, png = decomposition(images, sources)
        pictures.append((f"{example.label}: {caption}; {where}", png))
    if not pictures:
        raise ValueError("no method of this grid has spectral surgery")
    return pictures


def _channels(index: GridIndex, examples: list[Example], where: str) -> list[tuple[str, bytes]]:
    pool = _pool(index, examples)
    last = len(pool.new_expert().network.stages)
    found = {}
    for example in examples:
        if example.images.domain_names == pool.domain_names:
            images, _, domains = example.images.training_images
            found[example.label] = stability(pool, images, domains, last)
    caption = f"Activation scores of the synthetic images in one expert, by domain; {where}"
    return [(caption, png_of(channel_figure(found, pool.domain_names)))]


def _pool(index: GridIndex, examples: list[Example]) -> ExpertPool:
    """The experts of the last example that has some: CADM's, where there are several."""
    for example in reversed(examples):
        experts = read_run_config(example.folder / CONFIG_NAME).distill.experts
        if experts is not None and experts.pool is not None:
            return ExpertPool.load(index.folder / POOLS_FOLDER / Path(experts.pool).name)
    raise ValueError("no method of this grid matches in experts, whose discriminators give the scores")


def _features(
    examples: list[Example], part: Part, dataset: DomainDataset | None, where: str
) -> list[tuple[str, bytes]]:
    sets = {example.label: example.images for example in examples}
    change = _source_data(examples[0], part, dataset).note
    caption = f"Means and deviations of the channels of a random network, image by image; {where}"
    caption += f". {change}." if change else ""
    return [(caption, png_of(feature_figure(_needed(dataset), sets, part.target)))]
