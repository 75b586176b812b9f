"""Domain-generalisable dataset distillation with fused C++/CUDA operators (``torch.ops.dgdd.*``).

Everything that most programs need is here: ``from dgdd_fast import distill, evaluate, load_dataset``. The
operators come with the import, which takes torch and numpy alone; all else is loaded when it is asked for.
"""

import sys
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dgdd_fast._core import load_core
from dgdd_fast.interruption import end_at_signals

# Python imports this first for `python -m dgdd_fast`, and is at work for nothing else then.
with end_at_signals() if sys.argv[:1] == ["-m"] and __name__ in sys.orig_argv else nullcontext():
    __version__ = load_core()

    from dgdd_fast import ops as ops  # gives the operators their fakes and autograd policy

if TYPE_CHECKING:
    from .config import (
        AugmentConfig,
        DistillConfig,
        DomainMaskConfig,
        EvaluateConfig,
        ExpertConfig,
        MaskConfig,
        MethodSpec,
        NetworkConfig,
        PretrainConfig,
        SurgeryConfig,
        with_method,
    )
    from .data import DomainDataset, from_iterable, load_dataset, register_loader
    from .distillation import distill
    from .evaluation import Evaluation, evaluate
    from .experts import ExpertPool
    from .experts.pretrain import pretrain
    from .matching.registry import register_objective
    from .networks import register_network
    from .plugins import load_plugins
    from .synthetic.distilled_set import DistilledSet

_HOMES = {
    "config": (
        "AugmentConfig",
        "DistillConfig",
        "DomainMaskConfig",
        "EvaluateConfig",
        "ExpertConfig",
        "MaskConfig",
        "MethodSpec",
        "NetworkConfig",
        "PretrainConfig",
        "SurgeryConfig",
        "with_method",
    ),
    "data": ("DomainDataset", "from_iterable", "load_dataset", "register_loader"),
    "distillation": ("distill",),
    "evaluation": ("Evaluation", "evaluate"),
    "experts": ("ExpertPool",),
    "experts.pretrain": ("pretrain",),
    "matching.registry": ("register_objective",),
    "networks": ("register_network",),
    "plugins": ("load_plugins",),
    "synthetic.distilled_set": ("DistilledSet",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AugmentConfig",
    "DistillConfig",
    "DistilledSet",
    "DomainDataset",
    "DomainMaskConfig",
    "EvaluateConfig",
    "Evaluation",
    "ExpertConfig",
    "ExpertPool",
    "MaskConfig",
    "MethodSpec",
    "NetworkConfig",
    "PretrainConfig",
    "SurgeryConfig",
    "distill",
    "evaluate",
    "from_iterable",
    "load_dataset",
    "load_plugins",
    "ops",
    "pretrain",
    "register_loader",
    "register_network",
    "register_objective",
    "with_method",
]


def __getattr__(name: str) -> Any:
    """Loads a public name of the package when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgdd_fast' has no attribute {name!r}")
    value = getattr(import_module(f"dgdd_fast.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
