"""The face of the package: what it offers, and what it does not load before it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dgdd_fast
from dgdd_fast.config import METHODS
from dgdd_fast.matching.registry import OBJECTIVES

HEAVY = ("matplotlib", "sklearn", "scipy", "typer", "rich", "PIL", "yaml", "safetensors", "pandas")


def loaded_after(code: str) -> list[str]:
    """What of `HEAVY` a new interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_everything_offered_is_there_whatever_was_imported_before() -> None:
    import dgdd_fast.distillation
    import dgdd_fast.experts.pretrain

    for name in dgdd_fast.__all__:
        assert getattr(dgdd_fast, name) is not None
    assert callable(dgdd_fast.distill)
    assert callable(dgdd_fast.evaluate)
    assert callable(dgdd_fast.pretrain)
    assert set(dgdd_fast.__all__) <= set(dir(dgdd_fast))


def test_operators_take_torch_and_numpy_alone() -> None:
    """They work where nothing else can be imported."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    code = (
        f"{blocked}import torch, dgdd_fast.ops as ops\n"
        "domain = torch.zeros(1, dtype=torch.int64)\n"
        "ops.spectral_surgery(torch.zeros(2, 1, 3, 8, 8), None, domain, 1.0, 0.3)\n"
        f"for name in {HEAVY!r}: del sys.modules[name]"
    )
    assert loaded_after(code) == []


def test_the_package_loads_nothing_heavy_before_it_is_asked() -> None:
    assert loaded_after("import dgdd_fast") == []
    assert (
        set(loaded_after("from dgdd_fast import distill, load_dataset")) & {"matplotlib", "sklearn"} == set()
    )


def test_every_objective_that_is_known_can_be_built_and_is_told_apart_in_the_registry_alone() -> None:
    assert set(METHODS) == set(OBJECTIVES)
    package = Path(dgdd_fast.__file__).parent
    telling = ("objective ==", "objective in", "architecture ==")
    for file in package.rglob("*.py"):
        if file.name != "registry.py":
            assert not any(words in file.read_text() for words in telling), file
