"""Backbones with one attention over all slots, and the table that
`agent.dynamics.backbone.kind` selects from.

Axes as in branches.py: B batch, F blocks of the past, n blocks newly read, S slots of a block,
M branches, P slots of a branch, D width, h heads, d = D/h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from worldmodels.nets.branches import (
    BLOCKWISE,
    Attention,
    Backbone,
    Past,
    Perceptron,
    Stack,
    Turn,
    attend_branches,
    newest,
    no_past,
)
from worldmodels.nets.space_time import SpaceTime
from worldmodels.nets.transformer import attend


class Layer(nn.Module):
    """One attention over all slots of all blocks, then a perceptron."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention, self.perceptron = Attention(dim, heads), Perceptron(dim)

    def read(
        self, x: Tensor, past: Past, layer: int, mask: Tensor, turn: Turn, drop: float
    ) -> Tensor:
        """x (B,n,S,D) as the newest blocks of the past, in which this is that layer."""
        q, k, v = self.attention.ask(x, BLOCKWISE, turn)
        past.write(layer, k, v)
        keys, values = (held.flatten(2, 3) for held in past.held(layer))
        y = attend(q.flatten(2, 3), keys, values, mask, drop)
        y = y.unflatten(2, x.shape[1:3]).permute(0, 2, 3, 1, 4)
        return self.perceptron(self.attention.add(x, y, drop), drop)

    def keep(self, x: Tensor, past: Past, layer: int, turn: Turn) -> None:
        """Only write the keys and values of x (B,n,S,D), for branches."""
        _, k, v = self.attention.ask(x, BLOCKWISE, turn)
        past.write(layer, k, v)

    def branch(
        self, x: Tensor, past: Past, layer: int, mask: Tensor, turn: Turn, drop: float
    ) -> Tensor:
        """Branches x (B,M,P,D) off the past."""
        q, k, v = self.attention.ask(x, BLOCKWISE, turn)
        keys, values = (held.flatten(2, 3) for held in past.held(layer))
        y = attend_branches(q, k, v, (keys, values), mask, drop).permute(0, 2, 3, 1, 4)
        return self.perceptron(self.attention.add(x, y, drop), drop)


class Blocks(Stack):
    """Every slot attends to all slots of its block and of those before: one block-causal mask."""

    def __init__(self, *, dim: int, layers: int, heads: int, slots: int) -> None:
        made = [Layer(dim, heads) for _ in range(layers)]
        super().__init__(made, dim=dim, heads=heads, slots=slots)

    def empty(self, rows: int, capacity: int) -> Past:
        """A past without blocks; keys (B,h,capacity,S,d)."""
        weight = self.norm.weight
        shape = (rows, self.heads, capacity, self.slots, len(weight) // self.heads)
        return no_past(weight, layers=len(self.layers), shape=shape, axis=2)

    def block_mask(self, past: Past, x: Tensor) -> Tensor:
        """(B,1,n*S,F*S) bool."""
        new, slots = x.shape[1:3]
        mask = past.order(new)[:, None, :, None, :, None]
        mask = mask.expand(-1, -1, -1, slots, -1, slots)
        return mask.flatten(4, 5).flatten(2, 3)

    def branch_mask(self, sight: Tensor) -> Tensor:
        """(B,1,M,1,F*S) bool."""
        return sight[..., None].expand(-1, -1, -1, self.slots).flatten(2)[:, None, :, None]

    def turn(self, place: Tensor) -> Turn:
        """All slots of a block are turned alike."""
        cos, sin = super().turn(place)
        return cos[:, None], sin[:, None]


class TrunkHead(nn.Module):
    """A trunk that reads each finished block once, and a small head that branches run through.

    `layers` layers of the trunk are as those of Blocks, and branches never enter them. The `head`
    layers see, of the past, what the trunk made of it; their own slots begin with what the trunk
    made of the same slots of the block before. So only the head's cost is paid at every call.
    EMERALD (arXiv 2507.04075) and GIT-STORM (arXiv 2410.07836) also split so, but their heads see
    one state of the past.
    """

    def __init__(self, *, dim: int, layers: int, heads: int, slots: int, head: int) -> None:
        super().__init__()
        self.trunk = Blocks(dim=dim, layers=layers, heads=heads, slots=slots)
        self.inject = nn.Linear(dim, dim)
        self.head = nn.ModuleList(Layer(dim, heads) for _ in range(head))
        self.norm = nn.LayerNorm(dim)

    def empty(self, rows: int, capacity: int) -> Past:
        """A past without blocks; keys (B,h,capacity,S,d), first the trunk's, then the head's."""
        own = self.trunk.empty(rows, capacity)
        other = no_past(
            self.norm.weight, layers=len(self.head), shape=tuple(own.keys[0].shape), axis=own.axis
        )
        return replace(own, keys=own.keys + other.keys, values=own.values + other.values)

    def read(self, past: Past, x: Tensor, seen: Tensor, drop: float = 0.0) -> tuple[Past, Tensor]:
        """Append blocks x (B,n,S,D), and return the trunk's features (B,n,S,D)."""
        past, feats = self.trunk.read(past, x, seen, drop)
        turn = self.trunk.turn(newest(past, x))
        for i, layer in enumerate(cast(Iterable[Layer], self.head), len(self.trunk.layers)):
            layer.keep(feats, past, i, turn)
        return past, feats

    def branch(
        self,
        past: Past,
        x: Tensor,
        *,
        place: Tensor,
        sight: Tensor,
        before: Tensor,
        drop: float = 0.0,
    ) -> Tensor:
        """The head's features (B,M,P,D) of branches x."""
        x = x + self.inject(before)
        mask, turn = self.trunk.branch_mask(sight), self.trunk.turn(place)
        for i, layer in enumerate(cast(Iterable[Layer], self.head), len(self.trunk.layers)):
            x = layer.branch(x, past, i, mask, turn, drop)
        out: Tensor = self.norm(x)
        return out


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "block": Blocks,
    "st": SpaceTime,
    "trunk_head": TrunkHead,
}
