"""Settings that are refused: by name, with the value cut to a readable length."""

from __future__ import annotations

import math
import typing
from pathlib import Path

import pytest

from dgdd_fast.config import (
    METHODS,
    DistillConfig,
    EvaluateConfig,
    ExpertConfig,
    MaskConfig,
    PretrainConfig,
    from_dict,
    method_name,
    setting_names,
    to_dict,
    with_assignments,
    with_method,
)
from dgdd_fast.config.run import RunConfig
from dgdd_fast.config.yaml_text import dump_yaml, load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"ipc": 10**30}, "ipc must be at most 1000000, got 1000"),
        ({"ipc": True}, "ipc must be int, got True"),
        ({"ipc": 2.0}, "ipc must be int, got 2.0"),
        ({"iterations": -1}, "iterations must not be negative, got -1"),
        ({"seed": 2**64}, "seed must be at most 9223372036854775807"),
        ({"momentum": 1}, "momentum must be at least 0 and less than 1, got 1"),
        ({"image_lr": math.inf}, "image_lr must be positive and finite, got inf"),
        ({"image_lr": 10**400}, "image_lr must be a number below 1e308, got 1000"),
        ({"surgery": {"alpha": math.nan}}, "surgery.alpha must be finite, got nan"),
        ({"augment": {"crop": 1.5}}, r"augment.crop must lie in \[0, 1\], got 1.5"),
        ({"masks": {"share": "half"}}, "masks.share must be float, got 'half'"),
        ({"objective": "dd"}, "objective must be one of 'dm', 'hdd', .*got 'dd'"),
        ({"network": {"architecture": "vit"}}, "network.architecture must be one of 'convnet', .*got 'vit'"),
        ({"networks": {}}, "unknown setting 'networks'; known settings: .*; did you mean network?"),
        ({"surgery": {"gamma": 1}}, "unknown setting 'gamma' in surgery; known settings: alpha, beta"),
        ({"surgery": [1]}, r"surgery must be a mapping of settings, got \[1\]"),
    ],
)
def test_a_wrong_setting_is_named_with_what_came(values: dict[str, typing.Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(DistillConfig, values)


def test_a_long_value_is_cut() -> None:
    for value in ("x" * 10_000, ["y"] * 10_000, {"z": "z" * 10_000}, 10**5000):
        with pytest.raises(ValueError, match="momentum") as error:
            from_dict(DistillConfig, {"momentum": value})
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("cls", [DistillConfig, EvaluateConfig, PretrainConfig, RunConfig])
def test_every_setting_has_a_name_and_can_be_set_to_what_it_is(cls: type) -> None:
    names = list(setting_names(cls))
    assert len(set(names)) == len(names)
    values = to_dict(cls())
    for name in names:
        value: typing.Any = values
        for part in name.split("."):
            value = None if value is None else value[part]
        if value is not None:
            assert to_dict(with_assignments(cls(), {name: value})) == values, name


def test_a_section_that_is_not_there_yet_is_made_by_setting_something_in_it() -> None:
    assert with_assignments(with_method(DistillConfig(), "cadm"), {"masks.share": 0.5}).masks == MaskConfig(
        0.5
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("distill.mask.share", "distill.masks.share"),
        ("masks.share", "distill.masks.share"),
        ("distill.momentun", "distill.momentum"),
        ("distill.surgery", "distill.surgery.alpha, distill.surgery.beta"),
    ],
)
def test_an_unknown_name_is_completed(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"there is no setting '{name}': did you mean .*{meant}"):
        with_assignments(RunConfig(), {name: 1})


def test_yaml_takes_a_key_once_and_aliases_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: 1\nb: {c: 1, d: 2, c: 3}\n")
    with pytest.raises(ValueError, match="the key 'c' stands twice in a mapping, line 2"):
        load_yaml(tmp_path / "twice.yaml")
    assert parse_yaml("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    with pytest.raises(ValueError, match="more than 10000 values, aliases written out"):
        parse_yaml(bomb)
    with pytest.raises(ValueError, match="stands within itself"):
        parse_yaml("a: &a [*a]")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("[" * 20_000)
    with pytest.raises(ValueError, match="special characters are not allowed"):
        parse_yaml("a: \x01")
    assert parse_yaml("1e-3") == 0.001


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{1: a, 0x1: b}", "0x1"),
        ("{a: 1, 'a': 2}", "a"),
        ("{yes: 1, true: 2}", "true"),
        ("{1: a, 1.0: b}", "1.0"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 2, <<: *x}", "<<"),
        ("y: {<<: {a: 1, a: 2}}", "a"),
        ("y: {<<: [{b: 1}, {a: 1, a: 2}]}", "a"),
        ("- {b: {c: {a: 1, a: 2}}}", "a"),
    ],
)
def test_a_key_is_the_same_however_it_is_written(text: str, key: str) -> None:
    with pytest.raises(ValueError, match=f"the key '{key}' stands twice in a mapping"):
        parse_yaml(text)


def test_merged_mappings_may_be_overridden_and_shared() -> None:
    values = parse_yaml("x: &x {a: 1, b: 2}\ny: &y {<<: *x, a: 3}\nz: {<<: [*y, *x], c: 4}\nw: {<<: *y}")
    assert values["y"] == {"a": 3, "b": 2}
    assert values["z"] == {"a": 3, "b": 2, "c": 4}
    assert values["w"] == values["y"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),  # not 8: the name of a class, or a slip
        ("1:30", "1:30"),  # not 90
        ("-1.5e3", -1500.0),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0", 0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1e", "1e"),
        ("0b", "0b"),
    ],
)
def test_numbers_are_what_a_reader_takes_them_for(text: str, value: object) -> None:
    read = parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "name", ["1e3", "010", "1:30", "0x1", "yes", "null", "1.5", "<<", "-", "", "a: b", "é"]
)
def test_names_come_back_as_they_were_written(name: str) -> None:
    assert parse_yaml(dump_yaml({name: [name]}).decode()) == {name: [name]}


def test_a_method_is_its_objective_and_its_modifiers() -> None:
    for name, spec in METHODS.items():
        assert name == spec.name
        for modifier in spec.modifiers:
            config = with_method(DistillConfig(), f"{name}+{modifier}")
            assert method_name(config) == f"{name}+{modifier}"
            assert from_dict(DistillConfig, to_dict(config)) == config


# As the version before wrote the settings of a run, whole.
OLD_EXPERTS = {"pool": "experts", "interpolate": True, "match": True, "regularise": True}
OLD_MASKS = {
    "share": 0.33,
    "activation_probability": 0.8,
    "score": "gap",
    "rescale": True,
    "matching": True,
    "regularisation": True,
    "consistency": True,
    "consistency_weight": 100.0,
}


@pytest.mark.parametrize(
    ("objective", "experts", "masks", "terms"),
    [
        ("cadm", {}, {}, ("masked", "masked", True)),
        ("cadm", {}, {"regularisation": False, "consistency": False}, ("masked", "plain", False)),
        ("cadm", {"match": False}, {"regularisation": False}, ("off", "plain", True)),
        ("cadm", {"regularise": False}, {"matching": False}, ("plain", "off", True)),
        ("mmd", {}, None, ("plain", "plain", False)),
        ("mmd", {"regularise": False}, None, ("plain", "off", False)),
    ],
)
def test_terms_that_were_switches_are_read(
    objective: str, experts: dict[str, bool], masks: dict[str, bool] | None, terms: tuple[typing.Any, ...]
) -> None:
    old_masks = None if masks is None else OLD_MASKS | masks
    old = {"objective": objective, "experts": OLD_EXPERTS | experts, "masks": old_masks}
    config = from_dict(RunConfig, {"distill": old}).distill
    matching, regularisation, consistency = terms
    assert config.experts == ExpertConfig("experts", True, matching, regularisation, consistency)
    assert config.masks == (None if masks is None else MaskConfig(draws=1))  # an image had one
    assert from_dict(DistillConfig, to_dict(config)) == config


def test_an_old_switch_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"experts\.match must be bool, got 'yes'"):
        from_dict(DistillConfig, {"experts": {"match": "yes"}})


def test_off_and_on_are_what_yaml_takes_them_for() -> None:
    values = parse_yaml("experts: {matching: off, consistency: on}")
    config = from_dict(DistillConfig, values)
    assert config.experts == ExpertConfig(matching="off", consistency=True)
    assert parse_yaml(dump_yaml(to_dict(config)).decode()) == to_dict(config)
    with pytest.raises(
        ValueError, match=r"experts\.matching must be one of 'off', 'plain', 'masked', got True"
    ):
        from_dict(DistillConfig, {"experts": {"matching": True}})


HOSTILE_YAML = {
    "200,000 brackets": ("a: " + "[" * 200_000, "nested too deeply"),
    "200,000 braces": ("{" * 200_000, "nested too deeply"),
    "lists in lists": ("- " * 20_000, "nested too deeply"),
    "a base-60 number without end": ("a: !!int " + "9:" * 100_000 + "9", "the number 9:9.* is too long"),
    "5000 digits": ("a: " + "1" * 5000, "the number 111.* is too long"),
    "5000 hexadecimal digits": ("a: 0x" + "f" * 5000, "is too long"),
    "more values than settings": ("[" + "1," * 11_000 + "]", "more than 10000 values"),
    "a date": ("a: 2001-02-03", "'2001-02-03' in line 1 .* read as timestamp.*put it in quotes"),
    "a date that is none": ("a: 2001-99-99", "put it in quotes"),
    "an object of Python": ("a: !!python/object:os.system ls", "read as os.system, which no setting is"),
    "a set": ("a: !!set {b}", "read as set"),
    "a tag that the value does not fit": ("a: !!bool maybe", "not of the type that its tag says"),
    "a tag without a value": ("a: !!int ''", "not of the type that its tag says"),
    "a scalar for a mapping": ("a: !!map x", "read as map"),
    "NUL in a text": ('a: "b\\0"', "characters that no text has"),
    "half a surrogate pair": ('a: "\\ud800"', "characters that no text has"),
    "a key that is a list": ("? [a]\n: b", "unhashable key"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_yaml_is_refused_in_a_few_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        parse_yaml(text)
    assert len(str(refusal.value)) < 600
