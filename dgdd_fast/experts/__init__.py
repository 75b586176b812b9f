"""Networks trained on the real images, with a domain discriminator after each stage."""

from .pool import POOL_NAME, Expert, ExpertPool, ExpertPoolError, reverse_gradient

__all__ = ["POOL_NAME", "Expert", "ExpertPool", "ExpertPoolError", "reverse_gradient"]
