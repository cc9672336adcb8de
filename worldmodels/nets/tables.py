"""Learned vectors of ids, a table for each slot. Axes: K slots, D width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn


class SlotTables(nn.Module):
    """A vector for every id of every slot: id i of one slot has nothing to do with i of another.

    `sizes`: how many ids each slot has. All lie in one table, slot k's from `first[k]` on, so that
    ids must be below their size: others would be read as ids of the next slot.
    """

    first: Tensor

    def __init__(self, *, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        first = list(accumulate(sizes, initial=0))[:-1]
        self.register_buffer("first", torch.tensor(first), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(...,K,D) of ids (...,K)."""
        vectors: Tensor = self.table(ids + self.first)
        return vectors
