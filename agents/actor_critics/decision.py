"""What every actor-critic answers. Axes: B batch, T steps, A actions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Decision:
    """What the policy makes of what it sees: action logits (B,T,A), critic outputs (B,T,size)."""

    logits: Tensor
    critic: Tensor
