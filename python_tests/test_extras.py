"""What is installed with an extra is asked for where it is needed, and the rest works without."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dgdd_fast
from dgdd_fast.extras import MissingExtraError, extra

PACKAGE = Path(dgdd_fast.__file__).parent
PROJECT = PACKAGE.parent / "pyproject.toml"
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "umap-learn": "umap"}
# Better with them, and there is something else to do without.
OPTIONAL = {("report/features.py", "umap"), ("synthetic/contact_sheet.py", "matplotlib")}

# An interpreter where nothing is installed but what the package needs.
LIGHT = f"""
import sys
from importlib.machinery import PathFinder

class Light(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {{"typer", "click", "rich", "matplotlib", "sklearn", "scipy", "jinja2",
                                       "ray", "submitit", "umap", "datasets", "joblib"}}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Light
sys.path[:0] = {[str(Path(__file__).parent / "helpers"), str(PACKAGE.parent)]!r}
"""


def light(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIGHT + script]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_a_missing_package_is_named_with_its_cure() -> None:
    with (
        pytest.raises(MissingExtraError, match=r"drawing needs nowhere,.*'dgdd-fast\[report\]'"),
        extra("report", "drawing"),
    ):
        import nowhere.to_be_found  # noqa: F401


def test_what_is_there_and_broken_says_so_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('libbroken.so: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="cannot open") as caught, extra("report", "drawing"):
        import broken_package  # noqa: F401
    assert not isinstance(caught.value, MissingExtraError)


def test_distilling_evaluating_and_exporting_need_no_extra(tmp_path: Path) -> None:
    done = light(
        """
from small_runs import SMALL, TINY
from toy_data import toy_domains
from dgdd_fast import DistilledSet, ops, distill, evaluate

sources, _, target = toy_domains().leave_out("domain2")
distill(sources, SMALL, target="domain2").save("set.safetensors")
found = DistilledSet.load("set.safetensors")
found.contact_sheet("sheet.png")
print(sorted(evaluate(found, {"held out": target}, TINY).accuracies))
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['held out']\n"
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_what_needs_an_extra_names_it(tmp_path: Path) -> None:
    done = light(
        """
import importlib
from dgdd_fast import load_dataset
from dgdd_fast.__main__ import main
from dgdd_fast.experiments.workers import run_on_ray, run_on_slurm
from dgdd_fast.extras import MissingExtraError

for attempt in (
    lambda: importlib.import_module("dgdd_fast.report.table"),
    lambda: importlib.import_module("dgdd_fast.report.figures"),
    lambda: load_dataset("embedded-digits"),
    lambda: run_on_ray([], None, None, None, "cpu", None),
    lambda: run_on_slurm([], None, None, {}, "cpu", None),
):
    try:
        attempt()
    except MissingExtraError as error:
        print(error)
sys.stdout.flush()
main()
""",
        tmp_path,
    )
    assert done.returncode == 2
    not_there = "which is not installed: pip install 'dgdd-fast"
    assert done.stdout.splitlines() == [
        f"a table of results needs scipy, {not_there}[report]'",
        f"drawing gradients needs matplotlib, {not_there}[report]'",
        f"drawing the embedded digits needs sklearn, {not_there}[report]'",
        f"a Ray cluster needs ray, {not_there}[ray]'",
        f"Slurm needs submitit, {not_there}[slurm]'",
    ]
    assert done.stderr == f"error: the command dgdd needs typer, {not_there}[cli]'\n"


def imports(node: ast.AST, extras: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every module imported below `node` as the package runs, each with the extras it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], extras) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield str(child.module).partition(".")[0], extras
        elif isinstance(child, ast.With):
            calls = [item.context_expr for item in child.items]
            named = [
                str(call.args[0].value)
                for call in calls
                if isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "extra"
                and isinstance(call.args[0], ast.Constant)
            ]
            yield from imports(child, (*extras, *named))
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imports(child, extras)


def test_every_import_is_of_a_dependency_or_stands_in_the_extra_that_brings_it() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads(PROJECT.read_text())["project"]

    def brought(requirements: list[str]) -> set[str]:
        names = [re.split(r"[^\w-]", requirement)[0] for requirement in requirements]
        return {MODULES.get(name, name.replace("-", "_")) for name in names}

    always = brought(project["dependencies"]) | {"dgdd_command", "dgdd_fast"} | set(sys.stdlib_module_names)
    by_extra = {name: brought(needed) for name, needed in project["optional-dependencies"].items()}
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        ambient = ("cli",) if place.startswith("commands/") else ()  # __main__ asks for it
        for module, extras in imports(ast.parse(file.read_text()), ambient):
            allowed = always.union(*(by_extra[name] for name in extras))
            assert module in allowed or (place, module) in OPTIONAL, f"{place} imports {module}"
