"""The cache: decoded images of folders that were read before.

It is on for folders of more than 500 images, in ``~/.cache/dgdd-fast`` or where ``XDG_CACHE_HOME`` says.
``DGDD_CACHE`` names another folder, for data of any size, or is ``off``. There is a store (`pixel_store`) for
each folder, resolution and version of the decoding. A file is decoded anew where its size or its times
differ; labels, splits and names are never cached. All of it may be moved or deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .pixel_store import LOG_NAME

VARIABLE = "DGDD_CACHE"
_OFF = ("off", "0", "no", "false")
FEW = 500  # images that are decoded within seconds


def cache_folder() -> Path | None:
    """Where the cache is; None where it is off."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named.casefold() in _OFF else Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "dgdd-fast"


def folder_for(made: dict[str, Any], count: int) -> Path | None:
    """The store for `count` images that are `made` so; None where they are not to be cached."""
    root = cache_folder()
    if root is None or (count <= FEW and not os.environ.get(VARIABLE)):
        return None
    name = Path(str(made["source"])).name
    return root / f"{name}-{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]}"


def clear_cache() -> int:
    """Deletes all stores in the cache; returns how many bytes they had. Nothing else is touched."""
    root = cache_folder()
    if root is None or not root.is_dir():
        return 0
    freed = 0
    for folder in sorted(root.iterdir()):
        if not (folder / LOG_NAME).is_file():
            continue
        freed += sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        shutil.rmtree(folder)
    return freed
