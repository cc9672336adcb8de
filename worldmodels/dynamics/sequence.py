"""An episode as a sequence of embeddings: a whole window, or a memory that grows step by step.

Axes: B batch, T steps, K tokens a frame, D width, L = root_size + T * stride positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.spaces import Obs
from envs.trees import each
from worldmodels.batch import Batch, at
from worldmodels.nets.transformer import Cache, Transformer
from worldmodels.protocols import Layout


@dataclass(frozen=True)
class Memory:
    """What an imagined moment remembers.

    `pending` (B,P,D) are positions not yet fed to the transformer; they ride along with the next
    action, so that what ends a step costs no pass of its own. `obs` (B,*O), which may be None
    where the layout looks at no frame, and `tokens` (B,K) open a new sequence at this moment when
    the cache is full.
    """

    cache: Cache
    pending: Tensor
    obs: Obs | None
    tokens: Tensor


def embed(layout: Layout, batch: Batch, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """All positions (B,L,D) of a batch, and which of them are real (B,L)."""
    seen = batch.seen
    shown = layout.whole or layout.look_size > 0
    root = layout.root(at(batch.obs, 0) if shown else first_frame(batch), tokens[:, 0])
    looks = layout.look(at(batch.obs, slice(1, None)))
    steps = (layout.act(batch.act), layout.answer(tokens[:, 1:]), looks)
    x = torch.cat([s.to(root.dtype) for s in steps], 2)
    # Tokens that show a frame do so also before the first valid step.
    told = seen[:, 1:] if layout.whole else batch.valid
    sizes = (
        (batch.valid, layout.act_size),
        (told, layout.answer_size),
        (seen[:, 1:], layout.look_size),
    )
    real = torch.cat([which[..., None].expand(-1, -1, size) for which, size in sizes], 2)
    opened = seen[:, :1].expand(-1, layout.root_size)
    x, real = torch.cat((root, x.flatten(1, 2)), 1), torch.cat((opened, real.flatten(1)), 1)
    if shown:
        return x, real
    # In place of the last token of a step that is padding: the next action follows at once.
    first = seen & ~F.pad(seen[:, :-1], (1, 0))
    later = F.pad(first[:, 1:, None], (layout.stride - 1, 0)).flatten(1)
    here = torch.cat((first[:, :1], later), 1)
    return torch.where(here[..., None], root, x), real | here


def first_frame(batch: Batch) -> Obs:
    """The first real frame (B,*O) of each row."""
    first = batch.seen.long().argmax(1)
    rows = torch.arange(len(first), device=first.device)
    return each(lambda x: x[rows, first], batch.obs)


def moments(net: Transformer, layout: Layout, batch: Batch, tokens: Tensor) -> Tensor:
    """Features (B,T+1,D) float32 where the moments of a window end: at their last positions."""
    x, visible = embed(layout, batch, tokens)
    _, feats = net.extend(net.empty(len(x)), x, visible)
    return feats[:, layout.root_size - 1 :: layout.stride].float()


def moment(net: Transformer, layout: Layout, memory: Memory) -> Tensor:
    """Features (B,D) float32 where an imagined moment ends.

    What is pending is fed once more with the next action, which writes the same into the cache:
    that costs less than a memory that comes in two kinds.
    """
    cache, pending = with_room(net, layout, memory, memory.pending.shape[1])
    _, feats = net.extend(cache, pending)
    return feats[:, -1].float()


def begin(net: Transformer, layout: Layout, batch: Batch, tokens: Tensor) -> Memory:
    """Read a real past in one pass; the memory stands at obs[:, -1]."""
    x, visible = embed(layout, batch, tokens)
    cache, _ = net.extend(net.empty(len(x)), x, visible)
    return Memory(cache, x[:, :0], at(batch.obs, -1), tokens[:, -1])


def with_room(
    net: Transformer, layout: Layout, memory: Memory, needed: int
) -> tuple[Cache, Tensor]:
    """The cache and the positions to feed it first.

    Where fewer than `needed` positions are free, both start anew from the present frame alone.
    """
    cache, pending = memory.cache, memory.pending
    if cache.capacity - cache.filled >= needed:
        return cache, pending
    root = layout.root(memory.obs, memory.tokens)
    return net.empty(len(root)), root.to(pending.dtype)


def see(layout: Layout, memory: Memory, obs: Obs | None, tokens: Tensor) -> Memory:
    """Queue the frame for the next pass, and make it the place to restart from."""
    pending = memory.pending
    if layout.look_size:
        assert obs is not None
        pending = torch.cat((pending, layout.look(obs).to(pending.dtype)), 1)
    return Memory(memory.cache, pending, obs, tokens)
