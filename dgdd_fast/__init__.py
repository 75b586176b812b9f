"""Domain-generalisable dataset distillation with fused operators."""
import torch  # noqa: F401  (must be loaded before the extension)

from . import _C  # noqa: F401
