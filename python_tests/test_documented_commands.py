"""Every `dgdd` command that the documentation or the help writes is one that the command takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dgdd_fast.commands.cli import app
from dgdd_fast.config import (
    RECIPES,
    DistillConfig,
    PretrainConfig,
    SurgeryConfig,
    with_method,
)

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SETTINGS = {
    "distill": DistillConfig(surgery=SurgeryConfig()),
    "evaluate": RECIPES["dm"],
    "pretrain": PretrainConfig(),
}
GROUP: Any = typer.main.get_command(app)


def commands_in(text: str) -> Iterator[str]:
    """The commands in blocks of shell, and those in code within a sentence; not those with something left
    out."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        found += joined(block).splitlines()
    found += re.findall(r"`(dgdd [^`]+)`", text.replace("\n", " "))
    for line in found:
        for part in re.split(r"  +#|&&", line):
            if part.strip().startswith("dgdd ") and "..." not in part and "COMMAND" not in part:
                yield part.strip()


def joined(text: str) -> str:
    """Lines that end in a backslash, with those that go on from there."""
    return re.sub(r"\\\n", " ", text)


def check(command: str) -> None:
    """Fails where `command` is none that dgdd takes: its name, options and settings; values are not looked
    at, but for those of --method."""
    _, *arguments = shlex.split(command)
    group = GROUP.make_context("dgdd", list(arguments), resilient_parsing=True)
    name, *rest = [*group._protected_args, *group.args] or [""]
    if not name:
        assert arguments, command
        return
    chosen = GROUP.commands[name]
    options = {option for parameter in chosen.params for option in parameter.opts} | {"--help", "-h"}
    for place, each in enumerate(rest):
        if each.startswith("--"):
            assert each.partition("=")[0] in options, f"{command}: {name} has no {each}"
        before = rest[place - 1] if place else ""
        setting = each.removeprefix("--set=") if each.startswith("--set=") else each
        if before == "--set" or setting != each:
            kind = setting.partition(".")[0]
            path = setting.partition("=")[0]
            assert "=" in setting or path.partition(".")[2], command
            owner: Any = SETTINGS[kind]
            for part in path.split(".")[1:]:
                if owner is not None:  # what is not on by default has its fields checked where it is
                    assert hasattr(owner, part), f"{command}: there is no setting {path}"
                    owner = getattr(owner, part)
        if before == "--method" and each.isascii() and "NAME" not in each:
            known = each.replace("cosine", "dm")  # of an example
            with_method(DistillConfig(), known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    for command in commands_in(page.read_text(encoding="utf-8")):
        check(command)


def test_the_examples_of_the_help_are_taken() -> None:
    count = 0
    for command in (GROUP, *GROUP.commands.values()):
        for example in re.findall(r"^ *(dgdd .+)$", joined(command.help or ""), re.MULTILINE):
            check(example.replace(",...", ""))
            count += 1
    assert count > 30


@pytest.mark.parametrize(
    "wrong",
    [
        "dgdd distil --target street",
        "dgdd evaluate runs/street --epoch 3",
        "dgdd distill --set distill.momentun=0.9",
        "dgdd distill --method dm+sgs+sgs",
    ],
)
def test_wrong_ones_are_found(wrong: str) -> None:
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check(wrong)
