"""Attention to a past of blocks, by the blocks themselves and by branches that leave no trace.

Axes: B batch, F blocks of the past, n blocks newly read, S slots of a block, M branches, P slots of
a branch, which stand for the first P of a block; D width, h heads, d = D/h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Turn = tuple[Tensor, Tensor]
"""Cosines and sines (...,d/2) by which queries and keys are turned."""

BLOCKWISE, SLOTWISE, INSIDE = (3, 0, 4, 1, 2, 5), (3, 0, 2, 4, 1, 5), (3, 0, 1, 4, 2, 5)
"""From (B,n,S,3,h,d) to three of (B,h,n,S,d), of (B,S,h,n,d) or of (B,n,h,S,d)."""


@dataclass(frozen=True)
class Past:
    """Keys and values of the blocks read so far, layer by layer.

    Those of a layer have `capacity` blocks along `axis`; seen (B,capacity) is False where a block
    is padding; `filled` blocks count. The buffers are written in place, so a past that was
    continued twice holds only the later continuation.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    axis: int
    seen: Tensor
    filled: int

    @property
    def capacity(self) -> int:
        """How many blocks fit."""
        return self.seen.shape[1]

    def grown(self, seen: Tensor) -> Past:
        """Room for n blocks more, which layers are to write; seen (B,n)."""
        stop = self.filled + seen.shape[1]
        assert stop <= self.capacity, f"{stop} blocks in a past of {self.capacity}"
        self.seen[:, self.filled : stop] = seen
        return replace(self, filled=stop)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Fill a layer's newest blocks."""
        new = k.shape[self.axis]
        for buffer, x in ((self.keys[layer], k), (self.values[layer], v)):
            buffer.narrow(self.axis, self.filled - new, new).copy_(x)

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values of all blocks that count."""
        k, v = self.keys[layer], self.values[layer]
        return k.narrow(self.axis, 0, self.filled), v.narrow(self.axis, 0, self.filled)

    def order(self, new: int) -> Tensor:
        """(B,new,F) bool: the blocks that each of the newest sees; padding sees itself alone."""
        blocks = torch.arange(self.filled, device=self.seen.device)
        rows = blocks[-new:, None]
        return (self.seen[:, None, : self.filled] & (blocks <= rows)) | (blocks == rows)


class Backbone(Protocol):
    """A net over an episode of blocks, a frame each. Memory is an argument and a result.

    A block sees itself and the seen blocks before it, whole. A branch is one possible next block:
    it sees the past that it is told to, and itself, and nothing ever sees it. So a branch off the
    blocks before t answers as it would if nothing but those had been read.
    """

    def empty(self, rows: int, capacity: int) -> Past:
        """A past without blocks, of the type that autocast computes in."""

    def read(self, past: Past, x: Tensor, seen: Tensor, drop: float = 0.0) -> tuple[Past, Tensor]:
        """Append blocks x (B,n,S,D), and return their features (B,n,S,D).

        seen (B,n) is False at padding, which sees itself alone. A share `drop` is dropped of
        attention's weights and of what layers add.
        """

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
        """Features (B,M,P,D) of branches x (B,M,P,D); the past stays as it is.

        place (M,): which block each would be. sight (B,M,F) bool: the blocks of the past that it
        sees, none of them padding. before (B,M,P,D): features of the block before it, 0 if it may
        not know that.
        """


class Attention(nn.Module):
    """The halves of x + attention(norm(x)), before and after the attention itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def ask(
        self, x: Tensor, order: tuple[int, ...], turn: Turn | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B,n,S,D), the first two turned, in an order of axes."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(order).unbind(0)
        return (q, k, v) if turn is None else (rotate(q, turn), rotate(k, turn), v)

    def add(self, x: Tensor, y: Tensor, drop: float) -> Tensor:
        """x (B,n,S,D) with what attention found, y (B,n,S,h,d)."""
        return x + F.dropout(self.out(y.flatten(-2)), drop)


class Perceptron(nn.Module):
    """x + mlp(norm(x)); exact GELU, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, drop: float) -> Tensor:
        """x (...,D) to (...,D)."""
        return x + F.dropout(self.mlp(self.norm(x)), drop)


class BlockLayer(Protocol):
    """A layer of a `Stack`; mask and turn are as the stack makes them."""

    def read(
        self, x: Tensor, past: Past, layer: int, mask: Tensor, turn: Turn, drop: float
    ) -> Tensor:
        """x (B,n,S,D) as the newest blocks of the past, in which this is that layer."""

    def branch(
        self, x: Tensor, past: Past, layer: int, mask: Tensor, turn: Turn, drop: float
    ) -> Tensor:
        """Branches x (B,M,P,D) off the past."""


class Stack(nn.Module):
    """A backbone of layers that are all alike; what they see is for subclasses to say."""

    def __init__(self, layers: Sequence[nn.Module], *, dim: int, heads: int, slots: int) -> None:
        super().__init__()
        self.heads, self.slots = heads, slots
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)

    def block_mask(self, past: Past, x: Tensor) -> Tensor:
        """What each slot of the newest blocks x (B,n,S,D) sees of the past."""
        raise NotImplementedError

    def branch_mask(self, sight: Tensor) -> Tensor:
        """The same of branches, from sight (B,M,F)."""
        raise NotImplementedError

    def turn(self, place: Tensor) -> Turn:
        """What slots of blocks at places (n,) are turned by."""
        return turns(place, len(self.norm.weight) // self.heads)

    def read(self, past: Past, x: Tensor, seen: Tensor, drop: float = 0.0) -> tuple[Past, Tensor]:
        """See Backbone."""
        past = past.grown(seen)
        mask, turn = self.block_mask(past, x), self.turn(newest(past, x))
        for i, layer in enumerate(self.layers):
            x = cast(BlockLayer, layer).read(x, past, i, mask, turn, drop)
        return past, self.norm(x)

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
        """See Backbone; branches look at the past itself, not at `before`."""
        mask, turn = self.branch_mask(sight), self.turn(place)
        for i, layer in enumerate(self.layers):
            x = cast(BlockLayer, layer).branch(x, past, i, mask, turn, drop)
        out: Tensor = self.norm(x)
        return out


def newest(past: Past, x: Tensor) -> Tensor:
    """Places (n,) of blocks x (B,n,S,D), the newest of a past."""
    return torch.arange(past.filled - x.shape[1], past.filled, device=x.device)


def attend_branches(
    q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor], mask: Tensor, drop: float = 0.0
) -> Tensor:
    """Attention of branches (...,M,P,d), each to what mask shows of the past and to all of itself.

    past: keys and values (...,J,d); mask (...,M,1,J) bool.

    The past is shared and each branch has keys of its own, so scores are worked out for the two
    apart: one softmax over both needs neither copies of the past nor branches masked from another.
    """
    keys, values = past
    branches, size = q.shape[-3:-1]
    far = (q.flatten(-3, -2) @ keys.transpose(-1, -2)).unflatten(-2, (branches, size))
    far = far.float().masked_fill(~mask, -torch.inf)
    near = (q @ k.transpose(-1, -2)).float()
    weights = (torch.cat((far, near), -1) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
    there, here = F.dropout(weights, drop).split((keys.shape[-2], size), -1)
    found = (there.flatten(-3, -2) @ values).unflatten(-2, (branches, size))
    return found + here @ v


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Turn pairs of numbers (RoPE: Su et al. 2021, arXiv 2104.09864, eq. 34): x (...,d)."""
    cos, sin = turn
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)


def turns(place: Tensor, numbers: int) -> Turn:
    """How vectors of `numbers` numbers are turned at places (n,): cosines, sines (n,numbers/2).

    Only how far apart two places are counts for attention, so that an episode may begin anywhere.
    """
    half = torch.arange(numbers // 2, device=place.device)
    angles = place[:, None] * 10_000.0 ** (-2 * half / numbers)
    return angles.cos(), angles.sin()


def no_past(weight: Tensor, *, layers: int, shape: tuple[int, ...], axis: int) -> Past:
    """A past without blocks on the device of a weight.

    Each layer's keys have `shape`, whose first axis is the batch and `axis` that of the blocks.
    """
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    keys, values = (
        tuple(torch.zeros(shape, dtype=dtype, device=weight.device) for _ in range(layers))
        for _ in range(2)
    )
    seen = torch.zeros(shape[0], shape[axis], dtype=torch.bool, device=weight.device)
    return Past(keys, values, axis, seen, 0)
