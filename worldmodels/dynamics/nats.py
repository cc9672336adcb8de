"""How many nats the frames of a window cost a dynamics, each frame given the true past.

Axes: B batch, T steps, K tokens a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch, at
from worldmodels.diffusion.bounds import nll_at
from worldmodels.diffusion.objective import token_nll
from worldmodels.diffusion.schedules import groups
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.protocols import Dynamics, Prediction

MARKS = (1, 2, 4, 8)
"""Numbers of groups in which frames are counted, beside as many as tokens."""


def group_counts(tokens: int, *more: int) -> list[int]:
    """MARKS, the number of tokens and others, as far as a frame of so many tokens has groups."""
    return sorted({n for n in (*MARKS, *more, tokens) if n <= tokens})


@torch.no_grad()
def frame_nats(dynamics: Dynamics, batch: Batch, tokens: Tensor, context: int = 0) -> Tensor:
    """Nats (B,T-context) of obs[:, context + 1:] by the logits of given tokens (B,T+1,K).

    Windows are whole. The first `context` steps are seen and cost nothing; a dynamics that
    remembers less than the window forgets as it does in a dream. What a frame costs a model that
    goes token by token; what it costs one that draws all tokens at once, a denoiser with a single
    step among them.
    """
    walk = along(dynamics, batch, tokens, context)
    return torch.stack([token_nll(said.logits, goal) for _, _, goal, said in walk], 1).sum(-1)


@torch.no_grad()
def frame_nats_at(
    net: Diffusion, batch: Batch, tokens: Tensor, steps: Sequence[int], context: int = 0
) -> dict[int, Tensor]:
    """NLL@n (B,T-context), for each n of `steps`: the nats of drawing the same frames in n groups.

    An estimate from one random order a frame, the same for every n: their differences are surer
    than they are. With one group it is `frame_nats`; with as many groups as tokens the bound on
    what a frame costs. As the denoiser is asked at masks, its process must have masks. Raises
    ValueError where a number of steps is not 1 to K.
    """
    sizes = {n: groups(net.layout.tokens, n, "linear") for n in steps}
    cost: dict[int, list[Tensor]] = {n: [] for n in steps}
    for memory, act, goal, _ in along(net, batch, tokens, context):
        order, roomy = torch.rand(goal.shape, device=goal.device), net.with_room(memory)

        def denoise(z: Tensor, memory: Any = roomy, act: Tensor = act) -> Tensor:
            return net.denoise(memory, act, z)

        def rand(shape: tuple[int, ...], order: Tensor = order) -> Tensor:
            return order.view(shape)

        for n in steps:
            cost[n].append(nll_at(denoise, goal, net.vocab, sizes[n], rand))
    return {n: torch.stack(column, 1) for n, column in cost.items()}


def along(
    dynamics: Dynamics, batch: Batch, tokens: Tensor, context: int = 0
) -> Iterator[tuple[Any, Tensor, Tensor, Prediction]]:
    """Walk along true frames: the memory before each step, action, tokens, what was said of it."""
    memory = dynamics.start(batch.first(context), tokens[:, : context + 1])
    for t in range(context, batch.act.shape[1]):
        act, goal = batch.act[:, t], tokens[:, t + 1]
        after, said = dynamics.step(memory, act, goal)
        yield memory, act, goal, said
        memory = dynamics.see(after, at(batch.obs, t + 1), goal)
