"""Scalar targets as distributions: how a head's numbers become a loss and a prediction."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(|x|+1)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of symlog."""
    return x.sign() * x.abs().expm1()


def sample(logits: Tensor) -> Tensor:
    """Draw a class per row of logits (...,C) by inverting the distribution function.

    One uniform number a row: on a CPU eight times faster than one per class. Never waits for
    the host.
    """
    reached = logits.float().softmax(-1).cumsum(-1)
    total = reached[..., -1:]
    place = torch.rand_like(total) * total
    return (reached <= place).sum(-1).clamp_max(logits.shape[-1] - 1)


# Half of Crafter's smallest reward, a step of health.
CLOSE = 0.05


class Target(Protocol):
    """How a scalar is learned: `size` head outputs, a loss, a prediction."""

    size: int

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Loss per element; logits (...,size), value (...)."""

    def predict(self, logits: Tensor) -> Tensor:
        """The scalar (...) that logits (...,size) stand for."""


class RewardTarget(Target, Protocol):
    """A target that also says how often it is right, for the log."""

    def right(self, logits: Tensor, value: Tensor) -> Tensor:
        """bool (...): the expected value is nearer than CLOSE; of classes, the likeliest is it."""


class TwoHot:
    """255 equal buckets over symlog values in [-20, 20]; predicts the expected value.

    The label shares its mass between the two neighbouring buckets (DreamerV3, eq. 8-9).
    """

    size = 255
    low, high = -20.0, 20.0

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy against the two-hot label of symlog(value)."""
        return -(self.label(value) * logits.float().log_softmax(-1)).sum(-1)

    def predict(self, logits: Tensor) -> Tensor:
        """symexp of the expected bucket."""
        # Not a matrix product: autocast and TF32 would round that.
        probs = logits.float().softmax(-1)
        return symexp((probs * self._buckets(logits.device)).sum(-1))

    def right(self, logits: Tensor, value: Tensor) -> Tensor:
        """Whether the expected value is nearer than CLOSE."""
        return (self.predict(logits) - value).abs() < CLOSE

    def label(self, value: Tensor) -> Tensor:
        """Rows (...,255) that sum to 1; values beyond the edges are clamped to them."""
        place = (symlog(value.float()).clamp(self.low, self.high) - self.low) * (
            (self.size - 1) / (self.high - self.low)
        )
        # Distance to each bucket in bucket widths: only the two neighbours are nearer than 1.
        buckets = torch.arange(self.size, device=value.device)
        return (1 - (place[..., None] - buckets).abs()).clamp_min(0)

    def _buckets(self, device: torch.device) -> Tensor:
        return torch.linspace(self.low, self.high, self.size, device=device)


class HlGauss:
    """129 bins, even in z = asinh(50 value) over [-15, 15]; predicts the expected value.

    The label is the histogram of a Gaussian around z whose deviation is 0.75 bin widths
    (HL-Gauss: Farebrother et al. 2024, arXiv 2403.03950, section 3.1; bins and deviation as
    Simulus has them, arXiv 2502.11537). Near zero bins are 0.005 wide; the outermost stand at
    +-32,690, and values beyond 20,000 read low, as their Gaussians are cut off.

    Simulus has symlog(100 value), the same but for values near zero, and takes each bin's centre
    for its value. Here those values are smaller by 1.8 %, which is what spreading a value over
    bins of growing width adds: a critic that learns from its own predictions would grow by it in
    each round. That share is the same for all values only where they are a hyperbolic sine.
    """

    size = 129
    top, deviation, scale = 15.0, 0.75, 50.0
    width = 2 * top / (size - 1)

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy against the label of `value`."""
        return -(self.label(value) * logits.float().log_softmax(-1)).sum(-1)

    def predict(self, logits: Tensor) -> Tensor:
        """The expected value; exactly 0 of even logits, as opposite bins are taken together."""
        probs, half = logits.float().softmax(-1), self.size // 2
        surplus = probs[..., half + 1 :] - probs[..., :half].flip(-1)
        return (surplus * self._values(logits.device)).sum(-1)

    def label(self, value: Tensor) -> Tensor:
        """Rows (...,129) that sum to 1; values beyond the outermost bins are clamped to them."""
        z = (value.float() * self.scale).asinh().clamp(-self.top, self.top)
        place = (z + self.top) / self.width
        edges = torch.arange(self.size + 1, device=value.device) - 0.5
        below = torch.special.ndtr((edges - place[..., None]) / self.deviation)
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def _values(self, device: torch.device) -> Tensor:
        """What the bins above zero (size//2,) are worth; those below are worth as much less."""
        z = torch.arange(1, self.size // 2 + 1, device=device) * self.width
        # The mean of sinh(z + x) is sinh(z) times that of exp(x): over a Gaussian, over a bin.
        spread = (self.deviation**2 + 1 / 12) * self.width**2 / 2
        return z.sinh() * math.exp(-spread) / self.scale


class Sign:
    """Classes -1, 0, +1 of a reward's sign; predicts by sampling, as Delta-IRIS does on Atari."""

    size = 3

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy of the class sign(value)+1."""
        classes = value.sign().long() + 1
        return F.cross_entropy(logits.float().movedim(-1, 1), classes, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """A sampled class, as -1.0, 0.0 or 1.0."""
        return sample(logits).float() - 1

    def right(self, logits: Tensor, value: Tensor) -> Tensor:
        """Whether the likeliest class is the value's sign."""
        return logits.argmax(-1) - 1 == value.sign()


class ExpectedSign(Sign):
    """As Sign, but predicts the mean of the classes: the same return with less noise."""

    def predict(self, logits: Tensor) -> Tensor:
        """The probability of 1 less that of -1."""
        probs = logits.float().softmax(-1)
        return probs[..., 2] - probs[..., 0]


class Scalar:
    """One output, squared error."""

    size = 1

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """(output - value)^2."""
        return (logits.float()[..., 0] - value).square()

    def predict(self, logits: Tensor) -> Tensor:
        """The output itself."""
        return logits.float()[..., 0]


REWARD_TARGETS: dict[str, RewardTarget] = {
    "two_hot": TwoHot(),
    "sign": Sign(),
    "expected_sign": ExpectedSign(),
}
VALUE_TARGETS: dict[str, Target] = {
    "two_hot": TwoHot(),
    "scalar": Scalar(),
    "hl_gauss": HlGauss(),
}
