"""Domain-generalisable dataset distillation with fused C++/CUDA operators (``torch.ops.dgdd.*``)."""

from dgdd_fast._core import load_core

__version__ = load_core()

from dgdd_fast import ops as ops  # gives the operators their fakes and autograd policy
