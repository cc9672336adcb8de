"""What a policy's outputs say about actions: one family of distributions for each kind of action.

A head has no weights; the actor-critic's last layer has `size` outputs for it. Whatever is said of
an action of several dimensions is a mean over them, in nats a dimension, as Simulus has it (arXiv
2502.11537): the policy's loss then keeps its weight against the critic's, and the entropy's
against the returns', however many there are. Times A it is that of the whole action.

Axes: A dimensions of an action, V values of a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.protocols import ActionHead
from envs.spaces import ActSpace, Discrete, MultiDiscrete
from worldmodels.actions import from_bins, to_bins
from worldmodels.nets.heads import sample

# Before tanh, means lie within +-MEAN, as tanh(5) is 0.9999. Actions are scored as if none was
# farther out than FAR: from there on, float32 cannot tell from a number below 1 how far it was.
MEAN, FAR = 5.0, 7.0
# The entropy's integral: as many places over +-6 standard deviations.
PLACES, WIDE = 33, 6.0


class Categorical:
    """One of `actions` actions; outputs are logits."""

    def __init__(self, *, actions: int) -> None:
        self.size = actions

    def sample(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Actions (...) int64 of logits (...,size)."""
        return sample(outputs / temperature)

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions (...)."""
        return outputs.argmax(-1)

    def score(self, outputs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of actions (...), and the entropy (...)."""
        return _score(outputs, act)


class MultiCategorical:
    """A choice among sizes[i] in dimension i, each by itself; outputs are all logits in a row."""

    def __init__(self, *, sizes: Sequence[int]) -> None:
        self.sizes, self.size = list(sizes), sum(sizes)

    def sample(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Actions (...,A) int64 of logits (...,size)."""
        return torch.stack([sample(x) for x in (outputs / temperature).split(self.sizes, -1)], -1)

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions (...,A)."""
        return torch.stack([x.argmax(-1) for x in outputs.split(self.sizes, -1)], -1)

    def score(self, outputs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of actions (...,A), and the entropy; (...) means over dimensions."""
        pairs = zip(outputs.split(self.sizes, -1), act.unbind(-1), strict=True)
        log_probs, entropies = zip(*(_score(x, a) for x, a in pairs), strict=True)
        return torch.stack(log_probs, -1).mean(-1), torch.stack(entropies, -1).mean(-1)


class Binned:
    """`dims` numbers in [-1,1], each one of `bins` even values, ends included; outputs are logits.

    Simulus has 51. Actions that are no value of the grid are scored as the nearest one.
    """

    def __init__(self, *, dims: int, bins: int) -> None:
        self.dims, self.bins, self.size = dims, bins, dims * bins

    def sample(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Actions (...,A) float32 of logits (...,size)."""
        return from_bins(sample(self._logits(outputs / temperature)), self.bins)

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions (...,A)."""
        return from_bins(self._logits(outputs).argmax(-1), self.bins)

    def score(self, outputs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of actions (...,A), and the entropy; (...) means over dimensions."""
        log_prob, entropy = _score(self._logits(outputs), to_bins(act, self.bins))
        return log_prob.mean(-1), entropy.mean(-1)

    def _logits(self, outputs: Tensor) -> Tensor:
        """(...,A,V)."""
        return outputs.unflatten(-1, (self.dims, self.bins))


class SquashedGaussian:
    """`dims` numbers: tanh of Gaussians; outputs are A for the means, A for the deviations.

    Both are bounded smoothly: means by +-5, deviations by min_std and max_std, at whose geometric
    mean they start. Log-probabilities are densities over [-1,1], and the entropy is theirs, below
    ln 2, maybe negative. tanh as in SAC (arXiv 1801.01290, appendix C).
    """

    def __init__(self, *, dims: int, min_std: float, max_std: float) -> None:
        self.dims, self.size = dims, 2 * dims
        self.min_std, self.max_std = min_std, max_std

    def sample(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Actions (...,A) float32 of outputs (...,size), without gradient.

        The temperature multiplies the deviations.
        """
        return self.rsample(outputs.detach(), temperature)

    def rsample(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """The same with the gradient of an action by the outputs that it was drawn from."""
        mean, std = self._gaussian(outputs)
        return (mean + temperature * std * torch.randn_like(mean)).tanh()

    def retrace(self, outputs: Tensor, act: Tensor) -> Tensor:
        """Actions (...,A) as `rsample` gives them, where these were drawn from these outputs."""
        mean, std = self._gaussian(outputs)
        noise = ((_drawn(act) - mean) / std).detach()
        return (mean + std * noise).tanh()

    def mode(self, outputs: Tensor) -> Tensor:
        """The median (...,A): of wide Gaussians, tanh puts the peaks of the density to the ends."""
        return self._gaussian(outputs)[0].tanh()

    def score(self, outputs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of actions (...,A), and the entropy; (...) means over dimensions.

        The entropy is an integral, not an estimate from draws: a batch in slices scores as in one.
        """
        mean, std = self._gaussian(outputs)
        drawn = _drawn(act)
        constant = 0.5 * math.log(2 * math.pi)
        log_prob = -0.5 * ((drawn - mean) / std).square() - std.log() - constant
        log_prob = log_prob - _log_slope(drawn)
        place = torch.linspace(-WIDE, WIDE, PLACES, device=std.device)
        share = (-0.5 * place.square()).softmax(0)
        slopes = _log_slope(mean[..., None] + std[..., None] * place)
        entropy = 0.5 + constant + std.log() + (slopes * share).sum(-1)
        return log_prob.mean(-1), entropy.mean(-1)

    def _gaussian(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations (...,A) before tanh, float32."""
        mean, spread = outputs.float().chunk(2, -1)
        low, high = math.log(self.min_std), math.log(self.max_std)
        return MEAN * (mean / MEAN).tanh(), (low + (high - low) * spread.sigmoid()).exp()


def action_head(space: ActSpace, settings: Mapping[str, Any]) -> ActionHead:
    """The head for actions of `space`; settings `kind` and its numbers are for continuous ones."""
    if isinstance(space, Discrete):
        return Categorical(actions=space.n)
    if isinstance(space, MultiDiscrete):
        return MultiCategorical(sizes=space.sizes)
    arguments = dict(settings)
    head: ActionHead = CONTINUOUS[arguments.pop("kind")](dims=space.size, **arguments)
    return head


CONTINUOUS = {"binned": Binned, "gaussian": SquashedGaussian}
"""Heads of continuous actions by the name that `agent.policy.kind` selects."""


def _score(logits: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of classes (...) under logits (...,V), and the entropy (...)."""
    logp = logits.float().log_softmax(-1)
    taken = logp.gather(-1, act[..., None])[..., 0]
    return taken, -(logp.exp() * logp).sum(-1)


def _drawn(act: Tensor) -> Tensor:
    """What tanh has made actions (...) of, but at most FAR."""
    end = math.tanh(FAR)
    return act.float().clamp(-end, end).atanh()


def _log_slope(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), finite however large x is."""
    return 2 * (math.log(2) - x.abs() - F.softplus(-2 * x.abs()))
