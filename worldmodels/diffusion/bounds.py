"""How many nats a frame costs a denoiser: bounds on -log p(frame), estimated from draws.

Axes: B rows, N tokens of a frame, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from worldmodels.diffusion.draws import Rand, ranks, uniforms
from worldmodels.diffusion.objective import time_bound, token_nll
from worldmodels.diffusion.processes import Hybrid, Uniform, choose, noised_at, uniform_counts
from worldmodels.diffusion.sampling import Denoise


def count_bound(
    denoise: Denoise, tokens: Tensor, vocab: int, rand: Rand | None = None, draws: int = 1
) -> Tensor:
    """An unbiased estimate (B,) of the bound of masks, from `draws` calls; tokens (B,N).

    N times the mean -log p of masked tokens, of a uniform number c in 1..N masked at random: the
    mean over all orders of the chain rule (arXiv 2110.02037), and for every schedule
    what the integral over time is (arXiv 2406.07524). Several draws are stratified
    over c; with N of them each c comes once.
    """
    rand = rand or uniforms(tokens.device)
    rows, places = tokens.shape
    total = torch.zeros((), device=tokens.device)
    for draw in range(draws):
        counts = uniform_counts((draw + rand((rows,))) / draws, places)
        masked = choose(counts, rand, places)
        nll = token_nll(denoise(tokens.masked_fill(masked, vocab)), tokens)
        total = total + torch.where(masked, nll, 0).sum(-1) * places / counts
    return total / draws


def integrated_bound(
    denoise: Denoise,
    tokens: Tensor,
    kernel: Uniform | Hybrid,
    rand: Rand | None = None,
    draws: int = 1,
) -> Tensor:
    """An unbiased estimate (B,) of the integral of `time_bound`, from `draws` calls; tokens (B,N).

    Times are stratified over the draws, and crowd at both ends, where the integrand is largest:
    t = sin^2(pi u / 2).
    """
    rand = rand or uniforms(tokens.device)
    total = torch.zeros((), device=tokens.device)
    for draw in range(draws):
        # In float64, as float32 has no t between 1 - 6e-8 and 1; and not at the very ends.
        u = ((draw + rand(tuple(tokens.shape[:1]))).double() / draws).clamp(1e-4, 1 - 1e-4)
        t = (math.pi / 2 * u).sin().square()
        z = noised_at(kernel, tokens, t, rand)
        integrand = time_bound(denoise(z), tokens, z, t, kernel)
        total = total + integrand * (math.pi / 2) * (math.pi * u).sin()
    return total / draws


def nll_at(
    denoise: Denoise,
    tokens: Tensor,
    vocab: int,
    sizes: Sequence[int],
    rand: Rand | None = None,
) -> Tensor:
    """An unbiased estimate (B,) of NLL@K, from K calls; tokens (B,N).

    The nats of drawing a frame in K = len(sizes) groups of places, given in `sizes`, at random:
    no less than those of `Random` with these groups. It falls with K: with one group it is the
    sum of the marginals' nats, with N it is the bound. What it is above the bound is the price of
    drawing tokens at once.
    """
    rand = rand or uniforms(tokens.device)
    order = ranks(rand(tuple(tokens.shape)))
    shown = (0, *accumulate(sizes))
    total = torch.zeros((), device=tokens.device)
    for first, last in pairwise(shown):
        nll = token_nll(denoise(tokens.masked_fill(order >= first, vocab)), tokens)
        total = total + torch.where((order >= first) & (order < last), nll, 0).sum(-1)
    return total
