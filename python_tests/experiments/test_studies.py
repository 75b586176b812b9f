"""The studies of the package: that they can be run, and that their rows are those of the papers' tables."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from data_trees import DISTRIBUTED, write_distributed
from toy_data import toy_domains
from typer.testing import CliRunner

from dgdd_fast.commands import cli
from dgdd_fast.config import ExpertConfig, MaskConfig
from dgdd_fast.data import DataError, DomainDataset, embedded_digits
from dgdd_fast.data.benchmarks import BENCHMARKS, domain_key, name_key
from dgdd_fast.experiments.builtin_studies import SMALL_RESOLUTION, builtin_names, builtin_study, small
from dgdd_fast.experiments.grid import load_data
from dgdd_fast.experiments.plan import parts_of, plan
from dgdd_fast.experiments.published import AVERAGE, published_names, published_table
from dgdd_fast.experiments.study import is_tunable, read_study, rows_of, study_from_dict, write_study

METHODS = Path(__file__).parents[2] / "docs" / "methods.md"
STUDIES = {name: builtin_study(name) for name in builtin_names()}
# Rows of the studies that the papers leave out of a table.
NOT_PRINTED = {
    *("random", "g + g_cls", "g + g_dom"),
    *("dm+sgs, equal length", "dm, literal union", "dm+sgs, literal union"),
}
BENCHMARK_OF = {benchmark.name: benchmark for benchmark in BENCHMARKS}


@pytest.fixture(scope="module")
def digits() -> DomainDataset:
    return embedded_digits(SMALL_RESOLUTION)


def test_every_published_table_has_its_study() -> None:
    assert set(published_names()) <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_at_the_papers_settings(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    benchmark = BENCHMARK_OF[study.data]
    assert study.title
    assert study.resolution == benchmark.resolution
    assert len(study.seeds) == 5
    for row in rows_of(study):
        if row.distill is not None:
            assert row.distill.iterations == 20_000
        epochs = {config.epochs for config in row.evaluations.values()}
        assert epochs == {1000 if name.startswith("sgs") else 2000}
        if row.pretrain is not None:
            assert row.pretrain.epochs == (120 if study.data in ("Office-Home", "DomainNet-Sub") else 60)
    write_study(tmp_path / "study.yaml", study)
    assert read_study(tmp_path / "study.yaml") == study


@pytest.mark.parametrize("name", published_names())
def test_rows_columns_and_budgets_are_those_of_the_table(name: str) -> None:
    study, table = STUDIES[name], published_table(name)
    assert study.published == (name,)
    assert table.benchmark == BENCHMARK_OF[study.data]
    assert set(study.ipc) == set(table.blocks)
    rows = {row.key for row in rows_of(study)}
    for block in table.blocks.values():
        assert rows - set(block) <= NOT_PRINTED
        assert set(block) <= rows
    columns = [column for column in table.columns if column not in (AVERAGE, "overhead")]
    parts = [part.column for part in parts_of(study, tuple(reversed(BENCHMARK_OF[study.data].domains)))]
    ours = list(study.evaluations) or parts
    assert ours == columns
    for ipc, block in table.blocks.items():
        for row in block:
            assert all(table.figure(ipc, row, column) for column in ours)
    assert table.covers(ours) or "overhead" in table.columns


@pytest.mark.parametrize("benchmark", BENCHMARK_OF)
def test_on_the_data_as_distributed_the_domains_and_classes_are_those_of_the_paper(
    benchmark: str, tmp_path: Path
) -> None:
    data = str(write_distributed(tmp_path, benchmark))
    classes = tuple(reversed(DISTRIBUTED[benchmark][-1][:100])) if benchmark == "DomainNet-Sub" else None
    domains = {name_key(name) for name in BENCHMARK_OF[benchmark].domains}
    for name, study in STUDIES.items():
        if study.data != benchmark:
            continue
        study = dataclasses.replace(study, data=data, classes=classes, seeds=(0,), ipc=study.ipc[:1])
        dataset = load_data(study)
        assert dataset.num_classes == BENCHMARK_OF[benchmark].num_classes
        grid = plan(study, dataset)
        jobs = {job.folder: job for job in grid.jobs}
        for entry in grid.entries:
            sources = {domain_key(source) for source in jobs[entry.file.rpartition("/")[0]].sources}
            tests = {domain_key(test) for test in entry.tests}
            column = {domain_key(entry.column)}
            if study.protocol == "single-source":
                assert (sources, tests) == (column, domains - column)
            elif study.protocol == "in-domain":
                assert sources == tests == domains
            else:
                assert sources == domains - column
                assert tests == (column if study.protocol == "leave-one-out" else sources)
        for table in map(published_table, study.published):
            printed = [column for column in table.columns if column not in (AVERAGE, "overhead")]
            ours = list(study.evaluations) or grid.columns
            assert [domain_key(column) for column in ours] == [domain_key(column) for column in printed], name


def test_figures_of_a_paper_are_refused_beside_other_classes(tmp_path: Path) -> None:
    data = str(write_distributed(tmp_path, "DomainNet-Sub"))
    study = dataclasses.replace(STUDIES["cadm-table-4-domainnet-sub"], data=data, resolution=8)
    message = r"the 100 classes of DomainNet-Sub, but .* gives 103: name those to use \(--classes NAME,\.\.\."
    with pytest.raises(DataError, match=message):
        load_data(study)
    assert load_data(dataclasses.replace(study, published=())).num_classes == 103
    run = ["grid", "cadm-table-4-domainnet-sub", "--data", data, "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(cli.app, [*run, "--classes", "class_1, class_2"])
    assert refused.exit_code == 2
    assert "gives 2" in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["sgs-table-4", "sgs-table-9-digits-dg", "sgs-table-9-pacs"])
def test_the_parts_of_the_gradient_are_all_there(name: str) -> None:
    surgeries = [row.distill.surgery for row in rows_of(STUDIES[name]) if row.distill is not None]
    parts = {(part.union, part.alpha > 0, part.beta > 0) for part in surgeries if part is not None}
    everything = set(itertools.product((False, True), repeat=3))
    assert parts == everything - {(False, False, False), (True, False, False)}  # the union alone is dm


def test_the_convnet_of_another_architecture_has_the_depth_of_the_paper() -> None:
    grid = plan(dataclasses.replace(STUDIES["cadm-table-3"], targets=None, seeds=(0,)), toy_domains(side=64))
    depths = {
        config.network.depth
        for job in grid.jobs
        for config in job.evaluations.values()
        if config.network.architecture == "convnet"
    }
    assert depths == {3}


@pytest.mark.parametrize("name", [name for name in STUDIES if name.startswith("cadm")])
def test_the_weights_of_cadm_and_of_dam_are_tuned_from_the_usual_ones(name: str) -> None:
    settings = STUDIES[name].tune.settings
    for row in rows_of(STUDIES[name]):
        if row.distill is None or row.distill.objective == "random":
            continue
        tuned = {setting for setting in settings if is_tunable(row, setting)}
        expected = {"distill.image_lr"}
        for weight, value in (
            ("distill.masks.consistency_weight", row.distill.masks and row.distill.masks.consistency_weight),
            ("distill.domain_masks.weight", row.distill.domain_masks and row.distill.domain_masks.weight),
        ):
            if value is not None:
                expected.add(weight)
                assert settings[weight].low * settings[weight].high == pytest.approx(value**2)
        assert tuned == expected


def test_the_documentation_says_where_every_study_belongs() -> None:
    section = METHODS.read_text("utf-8").partition("## The papers' tables and figures")[2]
    named: set[str] = set()
    for line in section.splitlines():
        begin = ""
        for name in re.findall(r"`([\w-]+)`", line):
            begin = name if not name.startswith("-") else begin
            named.add(name if not name.startswith("-") else _other_ending(begin, name))
    assert set(STUDIES) <= named


def _other_ending(name: str, ending: str) -> str:
    """``sgs-table-1-digits-dg`` with the ending ``-pacs``."""
    return "-".join(name.split("-")[:3]) + ending


@pytest.mark.parametrize("name", STUDIES)
def test_the_small_scale_of_a_study_can_be_run_on_the_embedded_digits(
    name: str, digits: DomainDataset
) -> None:
    study = small(STUDIES[name], None)
    grid = plan(study, digits)
    assert {row.key for row in grid.rows} >= {entry.key for entry in study.methods}
    assert len(grid.jobs) <= 92
    iterations = {row.distill.iterations for row in grid.rows if row.distill is not None}
    assert max(iterations) <= 20
    full = parts_of(STUDIES[name], BENCHMARK_OF[STUDIES[name].data].domains)
    assert len(grid.columns) == min(len(full), 4)
    assert "not for comparison" in study.title


def test_the_small_scale_takes_the_embedded_digits_by_their_own_names() -> None:
    for name in ("sgs-table-1-core50-hard", "cadm-table-2"):
        assert small(STUDIES[name], "embedded-digits") == small(STUDIES[name], None)
        own = small(STUDIES[name], "own")
        assert (own.domains, own.targets) == (STUDIES[name].domains, STUDIES[name].targets)


def test_a_target_goes_by_any_name_of_its_domain() -> None:
    study = dataclasses.replace(STUDIES["cadm-table-2"], targets=("art_painting",))
    assert [part.column for part in parts_of(study, ("Photo", "ArtPainting"))] == ["ArtPainting"]


def test_the_command_lists_the_studies_and_asks_for_their_data(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["studies"])
    assert listed.exit_code == 0
    assert all(f"{name} " in listed.output for name in STUDIES)
    refused = runner.invoke(cli.app, ["grid", "sgs-table-4"])
    assert refused.exit_code == 2
    assert "a study on Digits-DG: name the folder that holds it, --data" in refused.output
    unknown = runner.invoke(cli.app, ["grid", "sgs-table-6", "--scale", "small"])
    assert unknown.exit_code == 2
    assert "no file and no study sgs-table-6" in unknown.output
    wrong = runner.invoke(cli.app, ["grid", "sgs-table-4", "--scale", "tiny"])
    assert "--scale must be full or small, got 'tiny'" in wrong.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sgs-table-2", "sgs-table-3", "sgs-table-4", "cadm-table-2", "cadm-table-3"]
)
def test_the_small_scale_of_a_study_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    result = CliRunner().invoke(cli.app, ["grid", name, "--scale", "small", "--out", str(out)])
    assert result.exit_code == 0, result.output
    table = CliRunner().invoke(cli.app, ["table", str(out)])
    assert table.exit_code == 0, table.output
    assert "missing" not in table.output


def test_a_row_with_old_switches_changes_the_terms_that_it_names() -> None:
    study = study_from_dict(
        {
            "methods": [
                {"method": "cadm", "name": "adm", "distill": {"masks": {"regularisation": False}}},
                {"method": "mmd", "name": "plain", "distill": {"experts": {"regularise": False}}},
            ]
        }
    )
    _, masked, plain = (row.distill for row in rows_of(study))
    assert masked is not None
    assert masked.experts == ExpertConfig(regularisation="plain")
    assert masked.masks == MaskConfig()
    assert plain is not None
    assert plain.experts is not None
    assert plain.experts.regularisation == "off"
