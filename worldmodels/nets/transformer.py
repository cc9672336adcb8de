"""A pre-norm causal transformer with a head-major key/value cache.

Axes: B batch, L positions, D width, h heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Cache:
    """Keys and values of the positions seen so far.

    keys values (layers,B,h,capacity,D/h), of which `filled` positions count; visible
    (B,capacity) is False where a position is padding. The buffers are written in place, so a
    cache that was continued twice holds only the later continuation.
    """

    keys: Tensor
    values: Tensor
    visible: Tensor
    filled: int

    @property
    def capacity(self) -> int:
        """How many positions fit."""
        return self.visible.shape[1]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, those of the next positions (B,h,L,d) written into it."""
        start, stop = self.filled, self.filled + k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, start:stop] = k
        values[:, :, start:stop] = v
        return keys[:, :, :stop], values[:, :, :stop]

    def join(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The same where nothing is written."""
        keys, values = (
            self.keys[layer, :, :, : self.filled],
            self.values[layer, :, :, : self.filled],
        )
        return torch.cat((keys, k.to(keys.dtype)), 2), torch.cat((values, v.to(values.dtype)), 2)


Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""What turns keys and values of positions into those of all that they may attend to."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: float = 0.0) -> Tensor:
    """Attention of q (B,h,L,d) to k, v (B,h,S,d) where mask (B,1,L,S) is True; None is all True.

    A share `drop` of the weights is dropped.

    torch's kernel on GPUs. On CPUs it is written out: for our short sequences torch's flash
    kernel took 2 to 5 times as long, its `math` one up to 3 times (torch 2.13, one thread).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return F.dropout(scores.softmax(-1).to(v.dtype), drop) @ v


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); exact GELU, `hidden` units between."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        remember: Remember | None = None,
        drop: float = 0.0,
    ) -> Tensor:
        """x (B,L,D); mask (B,1,L,S) True where attended; `remember` adds what came before x.

        Without a mask all attend to all. A share `drop` is dropped of attention's weights and of
        what is added to x.
        """
        batch, length, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if remember is not None:
            k, v = remember(k, v)
        y = attend(q, k, v, mask, drop).transpose(1, 2).reshape(batch, length, dim)
        x = x + F.dropout(self.out(y), drop)
        return x + F.dropout(self.mlp(self.norm2(x)), drop)


class Transformer(nn.Module):
    """Causal transformer over at most `capacity` positions with learned absolute positions.

    In training mode whole sequences lose a share `dropout` of embeddings, attention's weights and
    what blocks add; cached ones lose nothing, as nothing learns from them.
    """

    def __init__(
        self, *, dim: int, layers: int, heads: int, capacity: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.capacity, self.dropout = heads, capacity, dropout
        self.position = nn.Embedding(capacity, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, 4 * dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Features (B,L,D) of whole sequences; visible (B,L) is False at padding.

        A position attends to visible ones up to itself, and to itself always, so that padding
        has no NaN; what padding computes, no visible position sees.
        """
        length = x.shape[1]
        return self._through(x + self.position.weight[:length], _mask(visible, length, 0))

    def arranged(self, x: Tensor, visible: Tensor, place: Tensor, sight: Tensor) -> Tensor:
        """The same where places and sight are given, so that futures may branch off a sequence.

        Position i of x (B,L,D) has the embedding of place[i], and attends to j where sight[i,j];
        place (L,) is below `capacity`, sight (L,L) bool.
        """
        oneself = torch.eye(len(place), dtype=torch.bool, device=x.device)
        mask = (visible[:, None, None, :] & sight) | oneself
        return self._through(x + self.position(place), mask)

    def _through(self, x: Tensor, mask: Tensor) -> Tensor:
        drop = self.dropout if self.training else 0.0
        x = F.dropout(x, drop)
        for block in self.blocks:
            x = block(x, mask, drop=drop)
        out: Tensor = self.norm(x)
        return out

    def empty(self, batch: int) -> Cache:
        """A cache for `batch` sequences that holds nothing, of the type autocast computes in."""
        weight = self.position.weight
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        shape = (len(self.blocks), batch, self.heads, self.capacity, weight.shape[1] // self.heads)
        keys = torch.zeros(shape, dtype=dtype, device=weight.device)
        visible = torch.zeros(batch, self.capacity, dtype=torch.bool, device=weight.device)
        return Cache(keys, torch.zeros_like(keys), visible, 0)

    def extend(
        self, cache: Cache, x: Tensor, visible: Tensor | None = None
    ) -> tuple[Cache, Tensor]:
        """Append positions x (B,L,D) and return the cache and their features (B,L,D)."""
        start, stop = cache.filled, cache.filled + x.shape[1]
        assert stop <= self.capacity, f"{stop} positions in a cache of {self.capacity}"
        cache.visible[:, start:stop] = True if visible is None else visible
        out = self._after(cache.write, x, cache.visible[:, :stop])
        return Cache(cache.keys, cache.values, cache.visible, stop), out

    def peek(self, cache: Cache, x: Tensor) -> Tensor:
        """The features (B,L,D) of positions x (B,L,D) that follow, all visible.

        Those of `extend` to the bit, with gradients to x; the cache stays as it is.
        """
        assert cache.filled + x.shape[1] <= self.capacity, "positions beyond the cache"
        visible = cache.visible[:, : cache.filled]
        return self._after(cache.join, x, F.pad(visible, (0, x.shape[1]), value=True))

    def _after(
        self,
        remember: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
        x: Tensor,
        visible: Tensor,
    ) -> Tensor:
        """Features of x (B,L,D), the last of positions with visible (B,S)."""
        stop = visible.shape[1]
        start = stop - x.shape[1]
        x = x + self.position.weight[start:stop]
        mask = _mask(visible, stop - start, start)
        for i, block in enumerate(self.blocks):
            x = block(x, mask, remember=partial(remember, i))
        out: Tensor = self.norm(x)
        return out


def _mask(visible: Tensor, queries: int, start: int) -> Tensor:
    """(B,1,queries,S) for the last `queries` of S positions, the first of which is `start`."""
    rows = torch.arange(start, start + queries, device=visible.device)[:, None]
    columns = torch.arange(visible.shape[1], device=visible.device)
    seen = visible[:, None, None, :] & (columns <= rows)
    return seen | (columns == rows)
