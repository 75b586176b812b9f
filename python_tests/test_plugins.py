"""Files of a user's own: run once a process and by its workers, with names that no other has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_data import toy_domains

import dgdd_fast
from dgdd_fast.config import ARCHITECTURES, METHODS
from dgdd_fast.data.load import LOADERS
from dgdd_fast.matching.registry import OBJECTIVES
from dgdd_fast.networks import ConvNet
from dgdd_fast.plugins import ENVIRONMENT, load_plugins, loaded_plugins

REGISTER = {
    "method": lambda name: dgdd_fast.register_objective(dgdd_fast.MethodSpec(name), OBJECTIVES["dm"].build),
    "network": lambda name: dgdd_fast.register_network(name, ConvNet),
    "loader": lambda name: dgdd_fast.register_loader(name, lambda what, resolution: toy_domains()),
}
TAKEN = {"method": "dm", "network": "convnet", "loader": "embedded-digits"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")


@pytest.mark.parametrize("kind", REGISTER)
def test_a_name_is_taken_once(kind: str) -> None:
    with pytest.raises(ValueError, match=f"the {kind} '{TAKEN[kind]}' exists already; choose another name"):
        REGISTER[kind](TAKEN[kind])


@pytest.mark.parametrize("name", ["whole", "imported", "mosaics", "sgs"])
def test_a_method_is_not_called_as_other_rows_and_modifiers_are(name: str) -> None:
    with pytest.raises(ValueError, match=f"the method '{name}' exists already; choose another name"):
        REGISTER["method"](name)
    assert name not in METHODS


@pytest.mark.parametrize("name", ["", "dm+mine", "a:b", "a/b", "a b", "-m", "été", "a\n", "[red]"])
@pytest.mark.parametrize("kind", REGISTER)
def test_a_name_is_one_that_commands_can_write(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"the name of a {kind} is letters, digits, - and _, got "):
        REGISTER[kind](name)
    assert name not in {*METHODS, *ARCHITECTURES, *LOADERS}


def test_a_file_is_run_once_a_process_and_told_to_its_workers(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"open({str(tmp_path / 'log')!r}, 'a').write(__name__ + ' ')")
    load_plugins([plugin])
    load_plugins([str(plugin)])
    (name,) = (tmp_path / "log").read_text().split()
    assert loaded_plugins() == [str(plugin)]
    script = "from dgdd_fast.plugins import load_plugins, loaded_plugins; load_plugins(loaded_plugins())"
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))
    assert (tmp_path / "log").read_text().split() == [name, name]


def test_a_plugin_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no plugin .*none\.py; name a Python file"):
        load_plugins([tmp_path / "none.py"])
    (tmp_path / "text.txt").write_text("x = 1")
    with pytest.raises(ValueError, match=r"text\.txt is no Python file"):
        load_plugins([tmp_path / "text.txt"])
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(ValueError, match=r"broken\.py failed: ZeroDivisionError: division by zero"):
        load_plugins([broken])
    broken.write_text("x = 1")  # a failure is no run
    load_plugins([broken])
    assert loaded_plugins() == [str(broken)]
