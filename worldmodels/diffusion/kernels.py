"""What noise does to one token between two times, forward and back, as matrices.

A kernel mixes a token with noise: q(z_t|x) = alpha_t [z_t = x] + noise_t(z_t).
Axes: V+1 states, of which the last is the mask; N tokens of a frame.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Kernel(Protocol):
    """A path from clean tokens to noise; times (...) give the shapes below."""

    vocab: int

    def alpha(self, t: Tensor) -> Tensor:
        """(...): the probability that a token has met no noise by t."""

    def noise(self, t: Tensor) -> Tensor:
        """(...,V+1): the probability that a token has met noise and is now this state."""

    def rate(self, t: Tensor) -> Tensor:
        """(...,V+1): noise' - (alpha'/alpha) noise, the rate of jumps into each state at t < 1."""


def marginal(kernel: Kernel, t: Tensor) -> Tensor:
    """q(z_t|x) as (...,V+1,V+1): a row for each x; the mask's row is only formal."""
    return _mixed(kernel.alpha(t), kernel.noise(t))


def transition(kernel: Kernel, s: Tensor, t: Tensor) -> Tensor:
    """q(z_t|z_s) for s < t as (...,V+1,V+1), a row for each z_s."""
    left, added = _between(kernel, s, t)
    # Rounding may leave a little less than none; more would be no path of probabilities.
    assert (added > -1e-12).all(), "noise that is taken away"
    return _mixed(left, added)


def posterior(kernel: Kernel, s: Tensor, t: Tensor) -> Tensor:
    """q(z_s|z_t,x) for s < t as (...,V+1,V,V+1): z_t, x, z_s.

    Where x cannot have become z_t the row is zeros.
    """
    back = transition(kernel, s, t).mT
    start, end = marginal(kernel, s), marginal(kernel, t)
    joint = back[..., :, None, :] * start[..., None, :-1, :]
    total = end[..., :-1, :].mT[..., None]
    return torch.where(total > 0, joint / total, 0)


def mixture_step(kernel: Kernel, s: Tensor, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
    """The mean posterior over x, sum_x q(z_s|z_t,x) p(x|z), as (...,N,V+1).

    z (...,N) at time t; probs (...,N,V) the full posterior p(x_i|z), which cross-entropy on all
    tokens learns. s and t have no axes. An x that cannot have become z_t is left out.
    """
    weight = _ratio(probs, _likelihood(kernel, t, z))
    guess = kernel.alpha(s) * _padded(weight) + kernel.noise(s) * weight.sum(-1, keepdim=True)
    return _stepped(kernel, s, t, z, guess)


def plug_in_step(kernel: Kernel, s: Tensor, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
    """The posterior q(z_s|z_t,x) with probs in place of x, as (...,N,V+1).

    Arguments as in `mixture_step`, but probs is the cavity posterior, p(x_i|z without z_i), which
    the continuous-time bound learns (GIDD, arXiv 2503.04482). Of one same law the two steps are
    the same; a full posterior put in here never converges, however many the steps.
    """
    return _stepped(kernel, s, t, z, kernel.alpha(s) * _padded(probs) + kernel.noise(s))


def cavity(kernel: Kernel, t: Tensor, z: Tensor, full: Tensor) -> Tensor:
    """p(x_i|z without z_i) of p(x_i|z) (...,N,V), z (...,N) at time t; see `full_posterior`."""
    return _normal(_ratio(full, _likelihood(kernel, t, z)))


def full_posterior(kernel: Kernel, t: Tensor, z: Tensor, cavity: Tensor) -> Tensor:
    """p(x_i|z) of p(x_i|z without z_i) (...,N,V): each times how likely x_i became z_i."""
    return _normal(cavity * _likelihood(kernel, t, z))


def _mixed(alpha: Tensor, noise: Tensor) -> Tensor:
    same = torch.eye(noise.shape[-1], dtype=noise.dtype, device=noise.device)
    return alpha[..., None, None] * same + noise[..., None, :]


def _between(kernel: Kernel, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Of the way from s to t: the probability of no noise, and of each state through noise."""
    left = kernel.alpha(t) / kernel.alpha(s)
    return left, kernel.noise(t) - left[..., None] * kernel.noise(s)


def _likelihood(kernel: Kernel, t: Tensor, z: Tensor) -> Tensor:
    """q(z_i|x_i = v) at time t as (...,N,V), of z (...,N)."""
    same = _same(z, kernel.vocab)
    return kernel.alpha(t) * same + kernel.noise(t)[z][..., None]


def _stepped(kernel: Kernel, s: Tensor, t: Tensor, z: Tensor, guess: Tensor) -> Tensor:
    """States at s (...,N,V+1) as likely as guess (...,N,V+1) and the way to z (...,N) make them."""
    same = _same(z, kernel.vocab + 1).to(guess.dtype)
    left, added = _between(kernel, s, t)
    way = (left * same + added.clamp_min(0)[z][..., None]) * guess
    # Nothing leads to z: a visible token of the absorbing kernel that its model thinks impossible.
    return _normal(torch.where(way.sum(-1, keepdim=True) > 0, way, same))


def _same(z: Tensor, states: int) -> Tensor:
    """bool (...,N,states): which state z (...,N) is."""
    return z[..., None] == torch.arange(states, device=z.device)


def _padded(probs: Tensor) -> Tensor:
    return F.pad(probs, (0, 1))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, 0)


def _normal(weight: Tensor) -> Tensor:
    return weight / weight.sum(-1, keepdim=True)
