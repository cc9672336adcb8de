"""How a world model is told of an action: a vector for each slot that it takes in a step.

Continuous actions are in [-1,1]. Axes: A dimensions of an action, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldmodels.nets.tables import SlotTables


def to_bins(act: Tensor, bins: int) -> Tensor:
    """Ids (...) of the nearest of `bins` even values from -1 to 1, the lower of two as near."""
    place = (act.float().clamp(-1, 1) + 1) * ((bins - 1) / 2)
    # Of NaN this is far below 0, which no table takes.
    return (place - 0.5).ceil().long()


def from_bins(ids: Tensor, bins: int) -> Tensor:
    """The values (...) float32 of ids (...); the ends are exactly -1 and 1."""
    return ids.float() * 2 / (bins - 1) - 1


class DiscreteAction(nn.Embedding):
    """One of `actions` actions, in one slot."""

    slots = 1

    def __init__(self, *, actions: int, width: int) -> None:
        super().__init__(actions, width)

    def forward(self, act: Tensor) -> Tensor:
        """(...,1,D) of actions (...) int64."""
        return super().forward(act)[..., None, :]


class MultiDiscreteAction(nn.Module):
    """A choice among sizes[i] in dimension i, each with a table of its own.

    join: "slots" gives each dimension a slot; "sum" adds their vectors up in one slot, which is
    what one linear layer over all of them side by side would do.
    """

    def __init__(self, *, sizes: Sequence[int], width: int, join: str) -> None:
        super().__init__()
        self.slots = {"slots": len(sizes), "sum": 1}[join]
        self.join = join
        self.tables = SlotTables(sizes=sizes, width=width)

    def forward(self, act: Tensor) -> Tensor:
        """(...,slots,D) of actions (...,A) int64."""
        vectors: Tensor = self.tables(act)
        return vectors if self.join == "slots" else vectors.sum(-2, keepdim=True)


class BinnedAction(MultiDiscreteAction):
    """`size` numbers in [-1,1], each told by the nearest of `bins` even values, ends included.

    Simulus has 51 (arXiv 2502.11537), one slot a dimension. What is farther out counts as the end.
    """

    def __init__(self, *, size: int, bins: int, width: int, join: str) -> None:
        super().__init__(sizes=[bins] * size, width=width, join=join)
        self.bins = bins

    def forward(self, act: Tensor) -> Tensor:
        """(...,slots,D) of actions (...,A) float32."""
        return super().forward(to_bins(act, self.bins))


class FloatAction(nn.Module):
    """`size` numbers as they are, by two layers with `hidden` units between, in one slot.

    Its layers want torch's own start: from `init_normal`'s both shrink what they are told, and a
    table's vectors are some times larger than what is left of an action.
    """

    slots = 1

    def __init__(self, *, size: int, hidden: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, act: Tensor) -> Tensor:
        """(...,1,D) of actions (...,A) float32."""
        vectors: Tensor = self.net(act)
        return vectors[..., None, :]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw torch's start, after whatever was drawn for the whole network."""
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
