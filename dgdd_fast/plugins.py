"""Plugins: Python files of yours that register an objective, a network or a loader of data."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Container, Iterable
from pathlib import Path

from .messages import shortened

ENVIRONMENT = "DGDD_PLUGINS"  # the files loaded, for processes that this one starts


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run these files, each once a process, and have worker processes run them too.

    Raises ValueError for a file that is not there or fails.
    """
    for path in paths:
        file = Path(os.path.realpath(os.path.expanduser(path)))
        # The same in every process: what one pickles of the file, another finds.
        name = f"dgdd_fast_plugin_{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}"
        if name in sys.modules:
            continue
        if not file.is_file():
            raise ValueError(f"there is no plugin {path}; name a Python file")
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ValueError(f"the plugin {file} is no Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(
                f"the plugin {file} failed: {shortened(f'{type(error).__name__}: {error}', 500)}"
            ) from error
        if str(file) not in loaded_plugins():
            os.environ[ENVIRONMENT] = os.pathsep.join([*loaded_plugins(), str(file)])


def loaded_plugins() -> list[str]:
    """The files that this process, or the one that started it, has loaded."""
    listed = os.environ.get(ENVIRONMENT, "")
    return listed.split(os.pathsep) if listed else []


def check_new_name(kind: str, name: str, taken: Container[str]) -> None:
    """Raise ValueError unless `name` may be that of another `kind`: not `taken`, and written with what
    commands, files and studies can write."""
    if name in taken:
        raise ValueError(f"the {kind} {name!r} exists already; choose another name")
    if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
        raise ValueError(f"the name of a {kind} is letters, digits, - and _, got {name!r}")
