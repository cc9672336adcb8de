"""Returns, masks and the scale of returns over imagined steps. Axes: B rollouts, H steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


class Unscaled(nn.Module):
    """Leaves advantages as they are, as IRIS and Delta-IRIS do."""

    def forward(self, advantage: Tensor) -> Tensor:
        """`advantage` itself."""
        return advantage

    def learn(self, ret: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class Percentiles(nn.Module):
    """Divides advantages by max(limit, S), where S follows the range of returns.

    S <- decay S + (1-decay) (Per(R,high) - Per(R,low)), from 0, over the steps that count, in
    percent; rewards larger than `limit` need no other weight of the entropy then (DreamerV3:
    Hafner et al., arXiv 2301.04104, actor learning; 5, 95, 0.99 and 1 there).

    S is saved with the weights. It moves after the optimiser's step, so that an update divides by
    the range of the updates before it; DreamerV3 counts the present one, too.
    """

    spread: Tensor

    def __init__(self, *, low: float, high: float, decay: float, limit: float) -> None:
        super().__init__()
        self.low, self.high, self.decay, self.limit = low, high, decay, limit
        self.register_buffer("spread", torch.zeros(()))

    def forward(self, advantage: Tensor) -> Tensor:
        """Advantages (...) in units of the scale."""
        return advantage / self.spread.clamp_min(self.limit)

    @torch.no_grad()
    def learn(self, ret: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Take in the returns (B,H) of steps with mask (B,H), at least one of which counts."""
        ordered = ret.float().where(mask, torch.inf).flatten().sort().values
        last = mask.sum() - 1
        spread = percentile(ordered, last, self.high) - percentile(ordered, last, self.low)
        self.spread.lerp_(spread, 1 - self.decay)
        return {"return_spread": self.spread.clone()}


def percentile(ordered: Tensor, last: Tensor, percent: float) -> Tensor:
    """A percentile of ordered[:last + 1], linear between neighbours; ordered (N,) ascends.

    `last` stays on the device: how many numbers count is nothing that a host must know.
    """
    place = last * (percent / 100)
    below = place.floor().long()
    pair = ordered.gather(0, torch.stack((below, (below + 1).minimum(last))))
    return pair[0].lerp(pair[1], place - below)


RETURN_SCALES = {"none": Unscaled, "percentiles": Percentiles}
