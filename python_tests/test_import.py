"""Importing the package where something is wrong: the message says what is wrong and what to do."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import dgdd_fast
from dgdd_fast import _C

PACKAGE = Path(dgdd_fast.__file__).parent
VERSION = metadata.version("dgdd-fast")


def import_in(folder: Path, setup: str = "") -> str:
    """What a new interpreter with `folder` first on its path says on importing dgdd_fast."""
    script = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        f"{setup}\n"
        "try:\n    import dgdd_fast\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
        "else:\n    print('imported', dgdd_fast.__version__)\n"
    )
    return run(script, folder)


def run(script: str, folder: Path, **environment: str) -> str:
    """What a new interpreter prints, with `folder` as its working directory."""
    command = [sys.executable, "-c", script]
    together = {**os.environ, **environment}
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=folder, env=together, check=True
    ).stdout


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """The package's Python modules that load the core, and a torch that has only a version."""
    (tmp_path / "dgdd_fast").mkdir()
    for name in ("__init__.py", "_core.py", "interruption.py"):
        shutil.copy(PACKAGE / name, tmp_path / "dgdd_fast")
    fake_torch(tmp_path, "2.12.3")
    return tmp_path


def fake_torch(folder: Path, version: str) -> None:
    (folder / "torch.py").write_text(f"__version__ = {version!r}\n")


def fake_core(folder: Path, text: str) -> None:
    (folder / "dgdd_fast" / "_C.py").write_text(text)


def test_the_version_is_that_of_the_package_and_of_the_core() -> None:
    assert dgdd_fast.__version__ == VERSION == _C.build_info()["version"]


def test_build_info() -> None:
    info = _C.build_info()
    assert all(info[key] for key in ("version", "torch", "compiler"))
    assert info["cpu_capability"] in ("baseline", "avx2", "avx512")
    assert bool(info["cuda_compiler"]) == bool(info["cuda_architectures"])


@pytest.mark.parametrize("version", ["2.10.1+cu128", "2.9.0", "1.13.1"])
def test_too_old_a_torch(source_tree: Path, version: str) -> None:
    fake_torch(source_tree, version)
    message = import_in(source_tree)
    assert message.startswith("ImportError")
    assert f"needs torch >= 2.11, and torch {version} is installed" in message
    assert "pip install --upgrade 'torch>=2.11'" in message


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "3.0.0.dev20270101"])
def test_new_enough_a_torch_gets_to_the_core(source_tree: Path, version: str) -> None:
    fake_torch(source_tree, version)
    assert "compiled core" in import_in(source_tree)


def test_no_torch(source_tree: Path) -> None:
    message = import_in(source_tree, "sys.modules['torch'] = None")
    assert "dgdd_fast needs torch >= 2.11: pip install 'torch>=2.11'" in message


def test_source_tree_without_a_core(source_tree: Path) -> None:
    (source_tree / "pyproject.toml").touch()
    message = import_in(source_tree)
    assert (
        f"Python found the source folder {source_tree / 'dgdd_fast'}, which has no compiled core" in message
    )
    assert "Run from another folder" in message
    assert "pip install --no-build-isolation -e ." in message


def test_installed_package_without_a_core(source_tree: Path) -> None:
    message = import_in(source_tree)
    assert f"the compiled core is missing from {source_tree / 'dgdd_fast'}" in message
    assert "pip install --no-build-isolation ." in message


def test_core_of_another_python(source_tree: Path) -> None:
    (source_tree / "dgdd_fast" / "_C.cpython-399-x86_64-linux-gnu.so").touch()
    message = import_in(source_tree)
    assert "built for another Python (_C.cpython-399-x86_64-linux-gnu.so)" in message
    assert f"this is Python {sys.version_info.major}.{sys.version_info.minor}" in message


def test_core_of_another_version(source_tree: Path) -> None:
    fake_core(source_tree, "def build_info():\n    return {'version': '0.0.7'}\n")
    message = import_in(source_tree)
    assert f"built from version 0.0.7, but the installed package is version {VERSION}" in message
    assert "pip install --no-build-isolation ." in message


def test_core_that_does_not_load(source_tree: Path) -> None:
    """What the dynamic linker says when a symbol is absent from the torch that is installed."""
    fake_core(source_tree, "raise ImportError('_C.so: undefined symbol: torch_call_dispatcher')\n")
    message = import_in(source_tree)
    assert f"dgdd_fast {VERSION} cannot be loaded with torch 2.12.3" in message
    assert "undefined symbol: torch_call_dispatcher" in message
    assert "pip install --no-build-isolation ." in message


def test_damaged_core(source_tree: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (source_tree / "dgdd_fast" / f"_C{suffix}").write_bytes(b"not a library")
    message = import_in(source_tree)
    assert "cannot be loaded with torch 2.12.3" in message
