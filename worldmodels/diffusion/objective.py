"""What a denoiser learns from: losses of noised frames, in nats.

A loss is one number a frame; average those over the frames that count. Summing over all tokens of
a batch instead would let frames with many masks count more.
Axes: leading (...) frames, N tokens of a frame, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodels.diffusion.draws import log_probs
from worldmodels.diffusion.kernels import Kernel


def token_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p (...,N) of clean tokens (...,N) by logits (...,N,V)."""
    return -log_probs(logits).gather(-1, tokens[..., None])[..., 0]


def denoising_loss(
    logits: Tensor, tokens: Tensor, scored: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy (...) of a frame's scored tokens; 0 of a frame that has none.

    logits (...,N,V); tokens (...,N) the clean ones; scored (...,N) bool. label_smoothing as in
    torch's cross_entropy; with it, a logit of -inf makes the loss infinite.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    scores = F.cross_entropy(
        logits.flatten(0, -2),
        tokens.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(tokens.shape)
    total = torch.where(scored, scores, 0).sum(-1)
    return total / scored.sum(-1).clamp_min(1)


def time_bound(
    logits: Tensor,
    tokens: Tensor,
    z: Tensor,
    t: Tensor,
    kernel: Kernel,
    clip: float | None = None,
) -> Tensor:
    """The integrand (...) at times t (...) of the bound on -log p of frames, in nats.

    GIDD (arXiv 2503.04482); for uniform noise it is UDLM's (arXiv 2412.10193). z
    (...,N) is drawn at t in (0,1), one time a frame; the logits (...,N,V) are read as the cavity
    posterior. The mean over z, integrated over t, is no less than -log p(tokens). Only for noise
    that leaves no token impossible: uniform and hybrid. clip bounds the weight of a token, for
    training: some grow without limit towards t = 0. What is then summed is no bound.
    """
    alpha, noise = kernel.alpha(t)[..., None, None], kernel.noise(t)[..., None, :]
    guess = F.pad(log_probs(logits).exp(), (0, 1))
    states = torch.arange(kernel.vocab + 1, device=z.device)
    truth = alpha * (tokens[..., None] == states) + noise
    model = alpha * guess + noise
    here = z[..., None] == states
    at_truth, at_model = (torch.where(here, law, 0).sum(-1) for law in (truth, model))
    weight = torch.where(here, kernel.rate(t)[..., None, :], 0).sum(-1) / at_truth
    if clip is not None:
        weight = weight.clamp_max(clip)
    # A kernel without masks gives the mask no probability, in both laws.
    ratio = torch.where(truth > 0, truth / model, 1)
    apart = (truth * ratio.log()).sum(-1)
    jump = at_truth / at_model
    return (weight * (apart + jump - jump.log() - 1)).sum(-1)
