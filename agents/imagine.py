"""The imagination loop: a policy acting inside a world model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.protocols import ActionHead, ActorCritic, Carry, Kept, PolicyGradient, View
from envs.spaces import Obs
from worldmodels.batch import stacked, stretch
from worldmodels.protocols import State
from worldmodels.world_model import WorldModel


@dataclass(frozen=True)
class Rollout:
    """H imagined steps, without gradient, on the device.

    x (B,H+1,*X): what the policy saw, from the real start to the last imagined moment;
    act (B,H,*A); rew (B,H); end (B,H) bool, sampled; kept (B,H,...): by the policy gradient.
    """

    x: Obs
    act: Tensor
    rew: Tensor
    end: Tensor
    kept: Kept


@torch.no_grad()
def imagine(
    world_model: WorldModel,
    view: View,
    actor_critic: ActorCritic,
    head: ActionHead,
    gradient: PolicyGradient,
    *,
    state: State,
    x: Obs,
    carry: Carry,
    horizon: int,
) -> Rollout:
    """Act `horizon` times from a real moment, sampling actions at temperature 1.

    `state` is what the world model knows of it, `x` (B,*X) what the policy sees.

    Gradients are not kept: the learner replays the policy over `x`, which costs one more pass of
    its encoder and leaves the loop free of autograd, but for what `gradient` works out of a moment
    by itself. Nothing here waits for the host.
    """
    seen, acts, rews, ends, kept = [x], [], [], [], []
    for _ in range(horizon):
        decision, carry = actor_critic(stretch(seen[-1]), carry)
        act = head.sample(decision.actor[:, 0])
        kept.append(gradient.watch(actor_critic, state, act, carry))
        state, prediction = world_model.imagine(state, act)
        seen.append(view.imagined(world_model, state))
        acts.append(act)
        rews.append(prediction.rew)
        ends.append(prediction.end)
    x, act, rew, end = (stacked(xs) for xs in (seen, acts, rews, ends))
    return Rollout(x, act, rew, end, tuple(stacked(xs) for xs in zip(*kept, strict=True)))
