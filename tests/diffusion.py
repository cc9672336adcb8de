"""Small diffusion dynamics, and what their losses saw."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor

from tests.nets import cut, heard, small_agent
from worldmodels.batch import Batch, at
from worldmodels.diffusion.draws import Rand
from worldmodels.diffusion.processes import Noised
from worldmodels.dynamics.blocks import BlockMemory
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.nets.backbones import BACKBONES

KINDS = tuple(BACKBONES)
PLAIN = ("agent.dynamics.objectives.corrupted=0",)
"""Every row is told its past as it was."""


def diffusion(layout: str, backbone: str, *words: str) -> Diffusion:
    """A small net over that layout, changed by settings."""
    at = "agent.dynamics."
    kinds = (f"{at}kind=diffusion", f"{at}layout.kind={layout}", f"{at}backbone.kind={backbone}")
    net = small_agent(*kinds, *words).world_model.dynamics
    assert isinstance(net, Diffusion)
    return net


def trained(
    net: Diffusion, batch: Batch, tokens: Tensor, fixed: Noised | None = None
) -> tuple[Noised, dict[str, Tensor]]:
    """The noised frames of one loss, and what its heads said: (B,T,K,V), (B,T,R), (B,T,2).

    The noised frames may be given.
    """
    noised: list[Noised] = []
    with patch.object(net, "process", wraps=net.process) as process, heard(net) as said:
        corrupt = process.corrupt

        def noted(tokens: Tensor, rand: Rand | None = None) -> Noised:
            noised.append(fixed or corrupt(tokens, rand))
            return noised[0]

        process.corrupt = noted
        net.loss(batch, tokens)
    return noised[0], {name: out[0] for name, out in said.items()}


@torch.no_grad()
def retraced(
    net: Diffusion, batch: Batch, tokens: Tensor, z: Tensor, context: int
) -> dict[str, Tensor]:
    """The same for the steps after `context`, imagined one by one from what is true."""
    past = cut(batch, slice(None), slice(0, context))
    memory: BlockMemory = net.start(past, tokens[:, : context + 1])
    said = []
    with heard(net) as ends:
        for t in range(context, batch.act.shape[1]):
            said.append(net.denoise(memory, batch.act[:, t], z[:, t]))
            memory, _ = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            memory = net.see(memory, at(batch.obs, t + 1), tokens[:, t + 1])
    rest = {name: torch.stack(ends[name], 1) for name in ("reward_head", "end_head")}
    return {"token_head": torch.stack(said, 1), **rest}
