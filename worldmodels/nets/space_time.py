"""A backbone that attends within a block and along time in turn.

Axes as in branches.py: B batch, F blocks of the past, n blocks newly read, S slots of a block,
M branches, P slots of a branch, D width, h heads, d = D/h.
"""

from __future__ import annotations

from torch import Tensor, nn

from worldmodels.nets.branches import (
    INSIDE,
    SLOTWISE,
    Attention,
    Past,
    Perceptron,
    Stack,
    Turn,
    attend_branches,
    no_past,
)
from worldmodels.nets.transformer import attend


class SpaceTimeLayer(nn.Module):
    """Attention of a block's slots to each other, of each slot to its own past, a perceptron."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.space, self.time = Attention(dim, heads), Attention(dim, heads)
        self.perceptron = Perceptron(dim)

    def read(
        self, x: Tensor, past: Past, layer: int, mask: Tensor, turn: Turn, drop: float
    ) -> Tensor:
        """x (B,n,S,D) as the newest blocks of the past, in which this is that layer."""
        x = self._inside(x, drop)
        q, k, v = self.time.ask(x, SLOTWISE, turn)
        past.write(layer, k, v)
        keys, values = past.held(layer)
        y = attend(q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), mask, drop)
        y = y.unflatten(0, q.shape[:2]).permute(0, 3, 1, 2, 4)
        return self.perceptron(self.time.add(x, y, drop), drop)

    def branch(
        self, x: Tensor, past: Past, layer: int, mask: Tensor, turn: Turn, drop: float
    ) -> Tensor:
        """Branches x (B,M,P,D) off the past of the same slots."""
        x = self._inside(x, drop)
        q, k, v = (part[..., None, :] for part in self.time.ask(x, SLOTWISE, turn))
        keys, values = (held[:, : x.shape[2]] for held in past.held(layer))
        y = attend_branches(q, k, v, (keys, values), mask, drop)
        return self.perceptron(self.time.add(x, y[..., 0, :].permute(0, 3, 1, 2, 4), drop), drop)

    def _inside(self, x: Tensor, drop: float) -> Tensor:
        q, k, v = (part.flatten(0, 1) for part in self.space.ask(x, INSIDE))
        y = attend(q, k, v, None, drop).unflatten(0, x.shape[:2])
        return self.space.add(x, y.transpose(2, 3), drop)


class SpaceTime(Stack):
    """Slots of a block mix, then each slot looks back along its own past: Copilot4D, Genie.

    Of a past, only the second attention keeps anything, a slot for itself. Whole attention within
    a block, where Copilot4D (arXiv 2311.01017) has shifted windows and three resolutions.
    """

    def __init__(self, *, dim: int, layers: int, heads: int, slots: int) -> None:
        made = [SpaceTimeLayer(dim, heads) for _ in range(layers)]
        super().__init__(made, dim=dim, heads=heads, slots=slots)

    def empty(self, rows: int, capacity: int) -> Past:
        """A past without blocks; keys (B,S,h,capacity,d)."""
        weight = self.norm.weight
        shape = (rows, self.slots, self.heads, capacity, len(weight) // self.heads)
        return no_past(weight, layers=len(self.layers), shape=shape, axis=3)

    def block_mask(self, past: Past, x: Tensor) -> Tensor:
        """(B*S,1,n,F) bool."""
        new, slots = x.shape[1:3]
        return past.order(new)[:, None, None].expand(-1, slots, -1, -1, -1).flatten(0, 1)

    def branch_mask(self, sight: Tensor) -> Tensor:
        """(B,1,1,M,1,F) bool."""
        return sight[:, None, None, :, None]
