"""An episode as blocks of slots, one for each frame.

Axes: B batch, T steps, K tokens a frame, D width, C slots of a block's content: a layout's stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.spaces import Obs
from worldmodels.batch import Batch, at
from worldmodels.dynamics.sequence import first_frame
from worldmodels.nets.branches import Past
from worldmodels.protocols import Layout


@dataclass(frozen=True)
class BlockMemory:
    """What an imagined moment remembers.

    `block` (B,S,D): features of the newest block, all of whose tokens are settled. `look`
    (B,L,D): what the layout shows of the newest frame, for the block after it. `obs` (B,*O),
    which may be None where the layout looks at no frame, and `tokens` (B,K) open a new past at
    this moment when this one is full.
    """

    past: Past
    block: Tensor
    look: Tensor
    obs: Obs | None
    tokens: Tensor


def blocks(layout: Layout, batch: Batch, tokens: Tensor) -> Tensor:
    """(B,T+1,C,D): for each frame [look at the frame before | action | its tokens].

    Zero where there is nothing real to show: in padding, and in a row's first real block, which
    has no step behind it. Where tokens do not show whole frames, that frame itself stands in the
    last slot of the first block, as in `opening`.
    """
    seen = batch.seen
    look, act = layout.look(at(batch.obs, slice(None, -1))), layout.act(batch.act)
    answer = layout.answer(tokens)
    stepped = torch.cat((look.to(answer.dtype), act.to(answer.dtype)), 2)
    stepped = F.pad(stepped * batch.valid[..., None, None], (0, 0, 0, 0, 1, 0))
    told = seen if layout.whole else F.pad(batch.valid, (1, 0))
    x = torch.cat((stepped, answer * told[..., None, None]), 2)
    if layout.whole:
        return x
    begins = seen & ~F.pad(seen[:, :-1], (1, 0))
    root = opening(layout, first_frame(batch), tokens[:, 0])
    return torch.where(begins[..., None, None], root[:, None].to(x.dtype), x)


def opening(layout: Layout, obs: Obs | None, tokens: Tensor) -> Tensor:
    """(B,C,D): a first block, which a frame (B,*O) or its tokens (B,K) end and nothing opens."""
    root = layout.root(obs, tokens)
    return F.pad(root, (0, 0, layout.stride - layout.root_size, 0))
