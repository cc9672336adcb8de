"""How a world model is told of an action: a vector for each slot that it takes in a step.

Continuous actions are in [-1,1]. Axes: A dimensions of an action, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from envs.spaces import ActSpace, Discrete, MultiDiscrete
from worldmodels.nets.init import OwnStart
from worldmodels.nets.tables import SlotTables

# Units between an action's numbers and its vector, which may be as long as a picture.
MOST_HIDDEN = 256


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
    """`size` numbers as they are, by two layers with `hidden` units between, in one slot."""

    slots = 1

    def __init__(self, *, size: int, hidden: int, width: int) -> None:
        super().__init__()
        # From `init_normal`'s start both layers would shrink what they are told, and a table's
        # vectors are some times larger than what would be left of an action.
        self.net = nn.Sequential(OwnStart(size, hidden), nn.SiLU(), OwnStart(hidden, width))

    def forward(self, act: Tensor) -> Tensor:
        """(...,1,D) of actions (...,A) float32."""
        # bfloat16 would tell no more than 8 bits of a number.
        with torch.autocast(act.device.type, enabled=False):
            vectors: Tensor = self.net(act.float())
        return vectors[..., None, :]


Codec = DiscreteAction | MultiDiscreteAction | FloatAction


@dataclass(frozen=True)
class ActionCodecs:
    """Builds what tells nets of the actions of `space`.

    form: of several dimensions, "tokens" gives each a slot, the others have one for all; of
    continuous ones, "floats" tells the numbers themselves, the others the nearest of `bins` values.
    A single choice is told in one way only.
    """

    space: ActSpace
    form: str
    bins: int

    def slots(self, width: int) -> Codec:
        """For a net that reads sequences."""
        return self._codec(width, "slots" if self.form == "tokens" else "sum")

    def one_slot(self, width: int) -> Codec:
        """For a net that wants one vector."""
        return self._codec(width, "sum")

    def _codec(self, width: int, join: str) -> Codec:
        space = self.space
        if isinstance(space, Discrete):
            return DiscreteAction(actions=space.n, width=width)
        if isinstance(space, MultiDiscrete):
            return MultiDiscreteAction(sizes=space.sizes, width=width, join=join)
        if self.form == "floats":
            return FloatAction(size=space.size, hidden=min(width, MOST_HIDDEN), width=width)
        return BinnedAction(size=space.size, bins=self.bins, width=width, join=join)
