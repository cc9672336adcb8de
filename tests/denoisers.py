"""Denoisers that know the law of what they denoise, by counting all frames of it.

Axes: B rows, N tokens of a frame, V vocabulary; the mask has id V.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from worldmodels.diffusion.kernels import Kernel, marginal


def states(size: int, tokens: int) -> Tensor:
    """All frames (size^N,N) of ids below size, the last token changing fastest."""
    return torch.tensor(list(product(range(size), repeat=tokens)))


def number(z: Tensor, size: int) -> Tensor:
    """Where frames (...,N) stand in `states`."""
    return (z * size ** torch.arange(z.shape[-1]).flip(0)).sum(-1)


def random_joint(vocab: int, tokens: int, sharpness: float = 1.0) -> Tensor:
    """A law (V^N,) of whole frames, all of which are possible."""
    return (sharpness * torch.randn(vocab**tokens, dtype=torch.float64)).softmax(0)


def tied_joint(tokens: int, prob: float) -> Tensor:
    """Two tokens: all are 1 with probability prob, or else all are 0 (2^N,)."""
    joint = torch.zeros(2**tokens, dtype=torch.float64)
    joint[0], joint[-1] = 1 - prob, prob
    return joint


class Table:
    """Knows the joint law (V^N,) of frames: exact logits, of masked frames and of noised ones."""

    def __init__(self, joint: Tensor, vocab: int, tokens: int) -> None:
        self.joint, self.vocab, self.tokens = joint, vocab, tokens
        self.frames = states(vocab, tokens)
        z = states(vocab + 1, tokens)
        agree = (z[:, None] == self.frames) | (z[:, None] == vocab)
        # At a visible place, what the others say of it.
        self.table = self._posterior(_others(agree.double()) * joint[:, None]).log()

    def __call__(self, z: Tensor) -> Tensor:
        """Logits (B,N,V) of p(x_i | visible tokens but i); those of the impossible are even."""
        return self.table[number(z, self.vocab + 1)]

    def full(self, z: Tensor, kernel: Kernel, t: Tensor) -> Tensor:
        """p(x_i | z) (B,N,V) of frames z (B,N) of a kernel's time t."""
        seen = self._seen(z, kernel, t).prod(-1, keepdim=True)
        return self._posterior((seen * self.joint[:, None]).expand(-1, -1, self.tokens))

    def cavity(self, z: Tensor, kernel: Kernel, t: Tensor) -> Tensor:
        """p(x_i | z without z_i) (B,N,V)."""
        return self._posterior(_others(self._seen(z, kernel, t)) * self.joint[:, None])

    def _seen(self, z: Tensor, kernel: Kernel, t: Tensor) -> Tensor:
        """q(z_i | x_i) at time t for every frame x: (B,V^N,N)."""
        return marginal(kernel, t)[self.frames[None], z[:, None]]

    def _posterior(self, weight: Tensor) -> Tensor:
        """(B,N,V) of the weights (B,V^N,N) of frames."""
        same = self.frames[..., None] == torch.arange(self.vocab)
        mass = torch.einsum("bxn,xnv->bnv", weight, same.double())
        total = mass.sum(-1, keepdim=True)
        return torch.where(total > 0, mass / total, 1 / self.vocab)


def _others(seen: Tensor) -> Tensor:
    """The product over all places but each one (...,N), of (...,N)."""
    places = range(seen.shape[-1])
    return torch.stack([seen[..., [j for j in places if j != i]].prod(-1) for i in places], -1)


class Bent:
    """Another denoiser with some error of its own in every state (B,N,V)."""

    def __init__(self, table: Table, by: float) -> None:
        self.inner = table
        self.table = table.table + by * torch.randn_like(table.table)

    def __call__(self, z: Tensor) -> Tensor:
        """Logits (B,N,V)."""
        return self.table[number(z, self.inner.vocab + 1)]


def distance(p: Tensor, q: Tensor) -> float:
    """Total variation of two laws."""
    return float((p - q).abs().sum() / 2)


def frequencies(z: Tensor, size: int) -> Tensor:
    """How often each frame of `states` is among z (B,N)."""
    return number(z, size).bincount(minlength=size ** z.shape[-1]).double() / len(z)


def chi_square(counts: Tensor, law: Tensor) -> float:
    """The p-value of counts having come from a law; states of law 0 must have none."""
    possible = law > 1e-12
    assert not counts[~possible].any()
    expected = counts.sum() * law[possible]
    statistic = ((counts[possible] - expected).square() / expected).sum()
    freedom = torch.tensor((int(possible.sum()) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))
