"""The tricks, usable in anybody's loop: torch alone underneath."""

from tricks.trick import Batch, Chain, Trick, derive_seed, in_order

__all__ = ["Batch", "Chain", "Trick", "derive_seed", "in_order"]
