"""The pins that the Makefile installs are those of what pyproject.toml needs, for any build of torch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def names(lines: list[str]) -> set[str]:
    return {
        re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines if line[:1] not in "#\n"
    }


def pinned(file: str) -> list[str]:
    lines = (ROOT / file).read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    ("file", "extras"),
    [("requirements.txt", ("cli", "report")), ("requirements-dev.txt", ("cli", "report", "test", "lint"))],
)
def test_everything_needed_is_pinned_and_make_requirements_says_how(
    file: str, extras: tuple[str, ...]
) -> None:
    tomllib = pytest.importorskip("tomllib")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = list(pyproject["project"]["dependencies"])
    for extra in extras:
        needed += pyproject["project"]["optional-dependencies"][extra]
    needed += pyproject["build-system"]["requires"]  # as the package is built without isolation
    needed += (ROOT / "requirements.in").read_text().splitlines(keepends=True)
    assert names(needed) - names(pinned(file)) == set()
    assert all(re.match(r"[\w.-]+==[\w.]+( ; |$)", line) for line in pinned(file))


def test_what_the_site_is_built_with_is_pinned_and_goes_with_what_is_tested_with() -> None:
    tomllib = pytest.importorskip("tomllib")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert names(pyproject["dependency-groups"]["docs"]) - names(pinned("requirements-docs.txt")) == set()
    assert all(re.match(r"[\w.-]+==[\w.]+( ; |$)", line) for line in pinned("requirements-docs.txt"))
    dev = set(pinned("requirements-dev.txt"))
    both = names(pinned("requirements-docs.txt")) & names(list(dev))
    assert {"ruff", "typer"} <= both
    shared = {line for line in pinned("requirements-docs.txt") if names([line]) <= both}
    assert {line.split(" ; ")[0] for line in shared} <= {line.split(" ; ")[0] for line in dev}


def test_what_is_tested_with_is_what_is_built_with() -> None:
    assert set(pinned("requirements.txt")) <= set(pinned("requirements-dev.txt"))


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_pins_hold_for_builds_for_the_cpu_and_for_cuda(file: str) -> None:
    text = (ROOT / file).read_text()
    assert re.search(r"^torch==[\d.]+$", text, re.MULTILINE)  # no +cpu, no marker
    for word in ("nvidia", "triton", "cuda", "index-url", "find-links", "://"):
        assert word not in text
