"""What the site has beside the pages in docs/, made anew in every build so that it cannot be out of date:
files that lie elsewhere in the repository, the notebook, the reference of the command, and formulas that need
no script.
"""

from __future__ import annotations

import html
import importlib.util
import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Pages of the site that are files elsewhere in the repository, and pictures of theirs.
BROUGHT = {
    "index.md": "README.md",
    "benchmarks.md": "bench/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "roofline_cpu.png": "bench/results/roofline_cpu.png",
}
NOTEBOOK = "examples/from_pictures_to_a_network.ipynb"
_LINK = re.compile(r'(?P<before>\]\(|src=")(?P<file>[^)"#\s:]+)(?=[)"#])')
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(\\\(|\\\[)(.*?)(\\\)|\\\])</\1>', re.DOTALL)


def brought(source: str) -> str:
    """The text of a file of the repository, its links turned to where their files are on the site."""
    places = {file: page for page, file in BROUGHT.items()}

    def turned(link: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["file"]))
        return link["before"] + places.get(file, file.removeprefix("docs/"))

    return _LINK.sub(turned, (ROOT / source).read_text(encoding="utf-8"))


def notebook() -> str:
    """The cells of the notebook as a page."""
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    shown = {"markdown": "{}", "code": "```python\n{}\n```"}
    page = "\n\n".join(shown[cell["cell_type"]].format("".join(cell["source"])) for cell in cells)
    return f"{page}\n\n*This page is `{NOTEBOOK}`; the tests execute its cells in order.*\n"


def command_reference() -> str:
    """Every command with its arguments, options and examples, from the help that it prints itself."""
    import typer

    if "dgdd_fast" not in sys.modules:  # found, not executed: help needs no torch, and no operators
        sys.path.insert(0, str(ROOT))
        spec = importlib.util.find_spec("dgdd_fast")
        assert spec is not None
        sys.modules["dgdd_fast"] = importlib.util.module_from_spec(spec)
    from dgdd_fast.commands.cli import app

    group: Any = typer.main.get_command(app)
    parts = ["# The command `dgdd`", *_help(group)]
    for name, command in group.commands.items():
        parts += [f"## `dgdd {name}`", *_help(command)]
    return "\n\n".join(parts) + "\n"


def _help(command: Any) -> list[str]:
    parts = []
    for paragraph in (command.help or "").strip().split("\n\n"):
        if paragraph.startswith("\b"):  # typer's mark of lines that are kept as they are
            parts.append(f"```sh\n{paragraph.removeprefix(chr(8)).strip()}\n```")
        else:
            parts.append(html.escape(" ".join(paragraph.split()), quote=False))
    rows = ["| | |", "| --- | --- |"]
    for each in command.params:
        name = each.name.upper() if each.param_type_name == "argument" else ", ".join(each.opts)
        if each.metavar:
            name = each.metavar if each.param_type_name == "argument" else f"{name} {each.metavar}"
        text = html.escape(each.help or "", quote=False).replace("|", "\\|")
        rows.append(f"| `{name}` | {text} |")
    return [*parts, "\n".join(rows)]


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for page, source in BROUGHT.items():
        content = brought(source) if source.endswith(".md") else (ROOT / source).read_bytes()
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "notebook.md", content=notebook()))
    files.append(File.generated(config, "command.md", content=command_reference()))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """mkdocs: formulas as MathML, which browsers show by themselves: nothing is fetched, nothing is run."""
    from latex2mathml.converter import convert

    def as_mathml(formula: re.Match[str]) -> str:
        return convert(html.unescape(formula[3]), display="block" if formula[1] == "div" else "inline")

    return _FORMULA.sub(as_mathml, content)
