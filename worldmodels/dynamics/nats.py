"""How many nats the frames of a window cost a dynamics, each frame given the true past.

Axes: B batch, T steps, K tokens a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch, single
from worldmodels.diffusion.bounds import nll_at
from worldmodels.diffusion.objective import token_nll
from worldmodels.diffusion.schedules import groups
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.protocols import Dynamics, Prediction


@torch.no_grad()
def frame_nats(dynamics: Dynamics, batch: Batch, tokens: Tensor) -> Tensor:
    """Nats (B,T) of obs[:, 1:] by the logits that `step` has for given tokens (B,T+1,K).

    Windows are whole and no longer than the dynamics remembers. What a frame costs a model that
    goes token by token; what it costs one that draws all tokens at once, a denoiser with a single
    step among them.
    """
    cost = [token_nll(said.logits, goal) for _, _, goal, said in _along(dynamics, batch, tokens)]
    return torch.stack(cost, 1).sum(-1)


@torch.no_grad()
def frame_nats_at(
    net: Diffusion, batch: Batch, tokens: Tensor, steps: Sequence[int]
) -> dict[int, Tensor]:
    """NLL@n (B,T), for each n of `steps`: the nats of drawing the same frames in n groups.

    An estimate from one random order a frame. With one group it is `frame_nats`; with as many
    groups as tokens the bound on what a frame costs. As the denoiser is asked at masks, its process
    must have masks. Raises ValueError where a number of steps is not 1 to K.
    """
    sizes = {n: groups(net.layout.tokens, n, "linear") for n in steps}
    cost: dict[int, list[Tensor]] = {n: [] for n in steps}
    for memory, act, goal, _ in _along(net, batch, tokens):

        def denoise(z: Tensor, memory: Any = memory, act: Tensor = act) -> Tensor:
            return net.denoise(memory, act, z)

        for n in steps:
            cost[n].append(nll_at(denoise, goal, net.vocab, sizes[n]))
    return {n: torch.stack(column, 1) for n, column in cost.items()}


def _along(
    dynamics: Dynamics, batch: Batch, tokens: Tensor
) -> Iterator[tuple[Any, Tensor, Tensor, Prediction]]:
    """Walk along true frames: the memory before each step, action, tokens, what was said of it."""
    memory = dynamics.start(single(batch.obs[:, 0]), tokens[:, :1])
    for t in range(batch.act.shape[1]):
        act, goal = batch.act[:, t], tokens[:, t + 1]
        after, said = dynamics.step(memory, act, goal)
        yield memory, act, goal, said
        memory = dynamics.see(after, batch.obs[:, t + 1], goal)
