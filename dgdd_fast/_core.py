"""Loading the compiled core `dgdd_fast._C`, or an ImportError that says what to do."""

from __future__ import annotations

import re
import sys
from importlib import import_module, metadata
from pathlib import Path

OLDEST_TORCH = (2, 11)  # the core is built against the stable ABI of this version
INSTALL = "pip install --no-build-isolation ."


def load_core() -> str:
    """Import torch and then the core, which registers the operators.

    Returns the package's version. Raises ImportError if torch is missing or older than 2.11, if the core was
    not built for this Python or cannot be loaded with this torch, or if it was built from another version of
    the package.
    """
    torch_version = _checked_torch_version()
    version = _package_version()
    try:
        core = import_module("dgdd_fast._C")
    except ModuleNotFoundError as error:
        if error.name != "dgdd_fast._C":
            raise
        raise ImportError(_missing_core_message()) from None
    except ImportError as error:
        raise ImportError(
            f"the compiled core of dgdd_fast {version} cannot be loaded with torch {torch_version} "
            f"and Python {_python_version()}: {error}. It was built for another torch or Python, or is "
            f"damaged: build it again in this environment, in the source folder: {INSTALL}"
        ) from error
    built = core.build_info()["version"]
    if built != version:
        raise ImportError(
            f"the compiled core of dgdd_fast was built from version {built}, but the installed package is "
            f"version {version}. Build it again in the source folder: {INSTALL}"
        )
    return version


def _checked_torch_version() -> str:
    needed = ".".join(map(str, OLDEST_TORCH))
    try:
        torch = import_module("torch")  # before the core, which links to its libraries
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"dgdd_fast needs torch >= {needed}: pip install 'torch>={needed}'") from None
    version = str(torch.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH:
        raise ImportError(
            f"dgdd_fast needs torch >= {needed}, and torch {version} is installed: "
            f"pip install --upgrade 'torch>={needed}'"
        )
    return version


def _package_version() -> str:
    try:
        return metadata.version("dgdd-fast")
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"dgdd_fast is not installed: Python found only the source folder {Path(__file__).parent}. "
            f"Install it from the folder that holds pyproject.toml: {INSTALL}"
        ) from None


def _missing_core_message() -> str:
    folder = Path(__file__).parent
    for_other_pythons = sorted(path.name for path in folder.glob("_C.*.so"))
    if for_other_pythons:
        return (
            f"the compiled core in {folder} was built for another Python ({', '.join(for_other_pythons)}), "
            f"and this is Python {_python_version()}. Install dgdd_fast again with this Python: {INSTALL}"
        )
    if (folder.parent / "pyproject.toml").exists():
        return (
            f"Python found the source folder {folder}, which has no compiled core, before any installed "
            "dgdd_fast. Run from another folder, or make the source folder itself work: "
            "pip install --no-build-isolation -e ."
        )
    return f"the compiled core is missing from {folder}. Install dgdd_fast again from its sources: {INSTALL}"


def _python_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))
