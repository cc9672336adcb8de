"""Policy and critic over feature vectors: two perceptrons without memory.

Axes: B batch, T steps, F features, A actions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.protocols import Carry, Decision, Vectors
from envs.spaces import Vector
from worldmodels.nets.heads import VALUE_TARGETS, Target


class Mlp(nn.Module):
    """Sees features (B,T,F) or vectors (B,T,K,D), which must tell the past that matters.

    It has no memory: the carry is empty.

    Policy and critic are networks of their own, each of `layers` hidden layers of `hidden` units
    (DreamerV3: Hafner et al., arXiv 2301.04104, 3 layers; the same shape serves STORM and EMERALD
    with 2). `value` names one of VALUE_TARGETS. As there, the policy starts almost even and the
    critic at exactly zero; other than there, no share of the actions is uniform by construction,
    and weights start as torch draws them.

    `space` is what it sees.
    """

    def __init__(
        self,
        *,
        space: Vector | Vectors,
        outputs: int,
        hidden: int,
        layers: int,
        value: str,
    ) -> None:
        super().__init__()
        self.value: Target = VALUE_TARGETS[value]
        widths = [math.prod(space.shape)] + [hidden] * layers
        self.axes = len(space.shape)
        self.actor_trunk, self.critic_trunk = _trunk(widths), _trunk(widths)
        self.actor = nn.Linear(widths[-1], outputs)
        self.critic = nn.Linear(widths[-1], self.value.size)
        # A hundredth of the usual size, so that no action is preferred before anything is known.
        nn.init.trunc_normal_(self.actor.weight, std=0.01 * widths[-1] ** -0.5)
        for zero in (self.actor.bias, self.critic.weight, self.critic.bias):
            nn.init.zeros_(zero)
        self.frame_values = max(widths)

    def initial(self, batch: int) -> Carry:
        """Nothing."""
        return ()

    def forward(self, x: Tensor, carry: Carry) -> tuple[Decision, Carry]:
        """Decide at every moment of a stretch (B,T,...) by itself; outputs are float32."""
        x = x.flatten(-self.axes)
        actor = _head(self.actor, self.actor_trunk(x))
        return Decision(actor, _head(self.critic, self.critic_trunk(x))), ()

    def watch(self, x: Tensor, seen: Tensor) -> Carry:
        """Nothing."""
        return ()


class Hidden(nn.Module):
    """A hidden layer: linear, RMSNorm (epsilon 1e-4) in float32 whatever the autocast, SiLU."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_in, num_out)
        self.norm = nn.RMSNorm(num_out, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """(...,num_out) of (...,num_in)."""
        return F.silu(self.norm(self.linear(x).float()))


def _trunk(widths: list[int]) -> nn.Sequential:
    return nn.Sequential(*(Hidden(a, b) for a, b in zip(widths, widths[1:], strict=False)))


def _head(head: nn.Linear, hidden: Tensor) -> Tensor:
    # A linear layer under autocast would round values and logits.
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float())
