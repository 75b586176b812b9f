"""What a study is planned to distil and to evaluate, with which seeds, and where it lies."""

from __future__ import annotations

import dataclasses
import math

import pytest
from small_studies import EXPERTS, STUDY, TINY
from toy_data import toy_domains

from dgdd_fast.experiments.plan import Plan, plan
from dgdd_fast.experiments.study import (
    MethodEntry,
    study_from_dict,
)


def planned(**changes: object) -> Plan:
    return plan(dataclasses.replace(STUDY, **changes), toy_domains())  # type: ignore[arg-type]


def test_leave_one_out_distils_without_the_target_and_tests_on_it_alone() -> None:
    grid = planned(targets=None)
    assert grid.columns == ["domain0", "domain1", "domain2"]
    entries = [entry for entry in grid.entries if entry.column == "domain1"]
    assert {entry.tests for entry in entries} == {("domain1",)}
    jobs = {job.name: job for job in grid.jobs}
    for entry in entries:
        job = jobs[entry.set_folder.removeprefix("jobs/")]
        assert job.sources == ("domain0", "domain2")
        assert job.run.target == "domain1"


def test_single_source_tests_on_every_other_domain_and_in_domain_on_all() -> None:
    grid = planned(protocol="single-source", targets=None, methods=(MethodEntry("dm"),))
    assert {(entry.column, entry.tests, entry.pooled) for entry in grid.entries} == {
        ("domain0", ("domain1", "domain2"), False),
        ("domain1", ("domain0", "domain2"), False),
        ("domain2", ("domain0", "domain1"), False),
    }
    assert {job.sources for job in grid.jobs} == {("domain0",), ("domain1",), ("domain2",)}
    grid = planned(protocol="in-domain", targets=None)
    assert grid.columns == ["all domains"]
    assert {job.sources for job in grid.jobs} == {("domain0", "domain1", "domain2")}
    with pytest.raises(ValueError, match="holds no domain out"):
        planned(protocol="in-domain")


def test_in_and_out_of_distribution_share_every_file() -> None:
    inside, outside = planned(protocol="in-distribution"), planned()
    assert {entry.file for entry in inside.entries} == {entry.file for entry in outside.entries}
    assert inside.entries[0].tests == ("domain1", "domain2")


def test_a_validation_shares_the_sets_but_no_evaluation() -> None:
    """It is tested on other images of the same domains."""
    validation, test = planned(protocol="validation"), planned()
    assert {job.name for job in validation.jobs} == {job.name for job in test.jobs}
    assert not {entry.file for entry in validation.entries} & {entry.file for entry in test.entries}


def test_the_columns_are_in_the_order_of_the_targets_and_the_cells_are_the_same() -> None:
    for protocol in ("leave-one-out", "single-source", "in-distribution"):
        common = {"protocol": protocol, "methods": (MethodEntry("dm"),)}
        forth = planned(**common, targets=("domain0", "domain1", "domain2"))
        back = planned(**common, targets=("domain2", "domain0", "domain1", "domain0"))
        assert back.columns == ["domain2", "domain0", "domain1"]
        assert list(dict.fromkeys(entry.column for entry in back.entries)) == back.columns
        assert set(back.entries) == set(forth.entries)


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match=r"no domain 'moon' in the data; it has domain0.*: name targets of"):
        planned(targets=("moon",))


def test_a_domain_whose_name_stands_for_holding_none_out_is_no_target() -> None:
    data = dataclasses.replace(toy_domains(), domain_names=("none", "photo", "sketch"))
    with pytest.raises(ValueError, match="the domain 'none' cannot be held out"):
        plan(dataclasses.replace(STUDY, targets=None), data)
    assert plan(dataclasses.replace(STUDY, targets=("photo",)), data).jobs


def test_folders_of_long_names_can_be_made() -> None:
    names = tuple(letter * 150 for letter in ("a", "\u732b", "b"))
    data = dataclasses.replace(toy_domains(), domain_names=names)
    jobs = plan(dataclasses.replace(STUDY, methods=(MethodEntry("datadam-bn+sgs"),), targets=None), data).jobs
    assert len({job.name for job in jobs}) == len(jobs)
    assert max(len(job.name.encode()) for job in jobs) < 240


def test_every_number_has_random_at_its_budget_under_its_evaluation() -> None:
    methods = (MethodEntry("dm"), MethodEntry("dm", "longer", evaluate={"epochs": 9}))
    grid = planned(methods=methods, ipc=(1, 3))
    jobs = {job.name: job for job in grid.jobs}
    for entry in grid.entries:
        folder, file = entry.reference.removeprefix("jobs/").split("/")
        job = jobs[folder]
        assert job.run.distill.objective == "random"
        assert job.run.distill.ipc == entry.ipc
        own = jobs[entry.file.split("/")[1]].evaluations[entry.file.split("/")[2]]
        assert job.evaluations[file] == own


def test_the_whole_data_have_no_budget_and_no_random_to_compare_with() -> None:
    methods = (MethodEntry("whole", evaluate={"epochs": 9}), MethodEntry("dm"))
    grid = planned(methods=methods)
    for entry in grid.entries:
        if entry.row == "whole":
            assert entry.reference == entry.file
            assert entry.set_folder is None
    epochs = {config.epochs for job in grid.jobs if not job.whole for config in job.evaluations.values()}
    assert epochs == {2}


def test_random_as_mosaics_is_a_row_of_its_own_beside_the_reference() -> None:
    mosaics = MethodEntry("random", "mosaics", distill={"factor": 2, "iterations": 9})
    grid = planned(methods=(MethodEntry("random"), mosaics), targets=("domain0",), seeds=(0,))
    plain, tiled = grid.entries
    assert plain.file == plain.reference == tiled.reference != tiled.file
    factors = {job.folder: job.run.distill.factor for job in grid.jobs}
    assert (factors[plain.set_folder], factors[tiled.set_folder]) == (1, 2)


def test_methods_share_seeds_and_other_sources_and_seeds_have_others() -> None:
    grid = planned()
    seeds = {(entry.column, entry.seed): set() for entry in grid.entries}
    jobs = {job.name: job for job in grid.jobs}
    for entry in grid.entries:
        folder, file = entry.file.removeprefix("jobs/").split("/")
        seeds[entry.column, entry.seed] |= {
            jobs[folder].run.distill.seed,
            jobs[folder].evaluations[file].seed,
        }
    assert all(len(values) == 1 for values in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds) == 4


def test_a_folder_is_named_by_all_that_decides_the_images_and_nothing_else() -> None:
    names = {job.name for job in planned().jobs}
    same = (
        {"distill": {**TINY, "checkpoint_every": 7}},
        {"evaluate": {"epochs": 5}},
        {"title": "other", "data": "elsewhere"},
    )
    for changes in same:
        assert {job.name for job in planned(**changes).jobs} == names
    for changes in ({"distill": {**TINY, "iterations": 3}}, {"ipc": (4,)}, {"seeds": (2, 3)}):
        other = {job.name for job in planned(**changes).jobs}
        matched = names & other
        assert all("random" in name for name in matched)
    data = toy_domains(seed=1)
    assert not names & {job.name for job in plan(STUDY, data).jobs}


def test_settings_that_cannot_work_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="batch_real must be at least 1, got 0"):
        planned(distill={"batch_real": 0})
    for settings, message in (
        ({"runs": 0}, "runs must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive and finite, got -1"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and finite, got inf"),
        ({"momentum": 2.0}, "momentum must be at least 0 and less than 1, got 2"),
        ({"momentum": -0.1}, "momentum must be at least 0 and less than 1, got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must be finite and not negative, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative, got -0.1"),
    ):
        with pytest.raises(ValueError, match=f"evaluate: {message}"):
            planned(evaluate=settings)


@pytest.mark.parametrize("protocol", ["in-distribution", "in-domain"])
def test_domains_without_the_images_that_are_tested_on_are_refused(protocol: str) -> None:
    data = toy_domains()
    part = data.select(~(data.is_test & (data.domains != 1)))
    study = dataclasses.replace(STUDY, protocol=protocol, targets=None)
    with pytest.raises(
        ValueError, match=f"{protocol} tests on test images of domain0, domain2, and there are none"
    ):
        plan(study, part)
    assert plan(dataclasses.replace(STUDY, targets=None), part).jobs


def test_a_longer_study_keeps_the_jobs_of_the_shorter_one() -> None:
    shorter, longer = planned(), planned(seeds=(0, 1, 2), targets=None, ipc=(3, 5))
    assert {job.name for job in shorter.jobs} < {job.name for job in longer.jobs}
    assert {entry.file for entry in shorter.entries} < {entry.file for entry in longer.entries}


def test_methods_that_match_in_experts_share_the_pools_trained_alike() -> None:
    grid = plan(EXPERTS, toy_domains())
    pools = {pool.folder: pool.config.reversal_weight for pool in grid.pools}
    assert sorted(pools.values()) == [0, 0.25]
    weights = {job.run.distill.objective: pools[job.pool] for job in grid.jobs if job.pool}
    assert weights == {"mmd": 0, "cadm": 0.25}
    assert len({job.name for job in grid.jobs}) == 4
    networks = {config.network.architecture for job in grid.jobs for config in job.evaluations.values()}
    assert networks == {"resnet18", "convnet"}  # that of the experts; and Random's own row has the default
    with pytest.raises(ValueError, match="only mmd and cadm match in experts"):
        study_from_dict({"methods": [{"method": "dm", "pretrain": {"epochs": 1}}]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": {"share": 1.5}}, "masks.share must lie in"),
        ({"batch_real": 0}, "batch_real must be at least 1"),
        ({"masks": {"stages": [5]}}, "masks.stages names stage 5, and a resnet18 has 4"),
        ({"experts": {"matching": False}, "surgery": {}}, "experts.matching must be plain or masked"),
        ({"network": {"width": 9}}, "leave distill.network alone"),
    ],
)
def test_settings_of_expert_methods_are_checked_before_any_expert_is_trained(
    settings: dict[str, object], message: str
) -> None:
    method = "cadm+sgs" if "surgery" in settings else "cadm"
    study = dataclasses.replace(EXPERTS, methods=(MethodEntry(method, distill=settings),))
    with pytest.raises(ValueError, match=message):
        plan(study, toy_domains())
