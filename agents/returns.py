"""Returns and masks over imagined steps. Axes: B rollouts, H steps."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(rew: Tensor, end: Tensor, value: Tensor, *, gamma: float, lam: float) -> Tensor:
    """G_t = r_t + (1-d_t) gamma [(1-lam) V_{t+1} + lam G_{t+1}], with G_H = V_H; (B,H).

    rew (B,H); end (B,H) bool; value (B,H+1) of the frames from the start to the last imagined.
    """
    keep = gamma * (~end)
    ret = value[:, -1]
    out = []
    for t in reversed(range(rew.shape[1])):
        ret = rew[:, t] + keep[:, t] * ((1 - lam) * value[:, t + 1] + lam * ret)
        out.append(ret)
    return torch.stack(out[::-1], 1)


def alive(end: Tensor) -> Tensor:
    """(B,H) bool: steps up to and including the first end."""
    ended = end.long().cumsum(1) - end.long()
    return ended == 0
