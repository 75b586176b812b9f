"""What the documentation site adds to the pages in docs/; `make docs` builds the site itself, strictly."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documentation_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_command_and_every_option_with_its_help(hooks: ModuleType) -> None:
    import typer

    from dgdd_fast.commands.cli import COMMANDS, app

    sections = re.split(r"^## `dgdd (.*)`$", hooks.command_reference(), flags=re.MULTILINE)
    texts = dict(zip(sections[1::2], sections[2::2], strict=True))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert list(texts) == list(commands)
    assert len(texts) == len(COMMANDS)
    for name, command in commands.items():
        rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", texts[name], flags=re.MULTILINE)
        assert len(rows) == len(command.params)
        for parameter, (shown, text) in zip(command.params, rows, strict=True):
            if parameter.param_type_name == "option":
                assert shown.startswith(parameter.opts[0])
            assert text.strip(), f"{name}: {shown} says nothing"
    assert "\b" not in hooks.command_reference()


def test_links_of_files_from_elsewhere_lead_to_their_places_on_the_site(hooks: ModuleType) -> None:
    for source in ("README.md", "bench/README.md"):
        text = hooks.brought(source)
        targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
        assert targets
        for target in targets:
            page = target in hooks.BROUGHT or (ROOT / "docs" / target).is_file()
            assert page or "://" in target, f"{source}: {target}"
    assert "](results.md#discriminators-and-masks)" in hooks.brought("bench/README.md")


def test_the_page_of_the_notebook_has_its_cells(hooks: ModuleType) -> None:
    page = hooks.notebook()
    assert page.startswith("# From a folder of pictures to a trained network")
    assert re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0].startswith("from pathlib import Path")


def test_every_page_is_in_the_menu(hooks: ModuleType) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    menu = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    brought = {page for page in hooks.BROUGHT if page.endswith(".md")}
    assert menu == written | brought | {"notebook.md", "command.md"}
    assert not written & brought


def test_what_the_pages_name_is_there(hooks: ModuleType) -> None:
    """Studies, files of results and sources that are named in passing, where no link is checked."""
    studies = {path.stem for path in (ROOT / "dgdd_fast" / "experiments" / "studies").glob("*.yaml")}
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:sgs|cadm)-[\w-]+)`", page))
    assert named <= studies
    for file in re.findall(r"`(?:bench/results/)?(\w+\.(?:json|md))`", page):
        assert (ROOT / "bench" / "results" / file).is_file(), file
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for file in re.findall(r"`((?:examples|bench|dgdd_fast|python_tests)/[\w/]+\.\w+)`", text):
            assert (ROOT / file).is_file(), f"{path.name}: {file}"
