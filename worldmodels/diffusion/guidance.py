"""Classifier-free guidance: away from what a denoiser says without the history."""

from __future__ import annotations

import torch
from torch import Tensor


def guide(cond: Tensor, uncond: Tensor, weight: float) -> Tensor:
    """Logits cond + weight (cond - uncond), all (...,V).

    arXiv 2207.12598, equation 6: weight 0 is cond and -1 uncond, 1 is no special case. Logits of
    16 bits become float32. A token of logit -inf in cond stays that; one in uncond only is as in
    cond.
    """
    if cond.dtype != torch.float64:
        cond, uncond = cond.float(), uncond.float()
    both = cond.isfinite() & uncond.isfinite()
    return cond + weight * torch.where(both, cond - uncond, 0)
