"""What a tokenizer's mistakes cost, whatever it made its pictures from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from worldmodels.protocols import Loss, Quantized


def reconstruction(
    error: Tensor, z: Tensor, quantized: Quantized, counted: Tensor, weights: Mapping[str, float]
) -> Loss:
    """Weighted l1, l2 and worst pixel, and the quantizer's loss; means over counted (B,T) frames.

    error (B*T,C,H,W) in [0,1] pixel units; z (B*T,K,d): the vectors that were quantized. `learn`
    is (vectors (B,T,K,d), codes (B,T,K), counted (B,T)).
    """
    weight = counted.flatten().float()
    weight = weight / weight.sum().clamp_min(1)
    squared = error.square()
    parts = {
        "l1": (error.abs().mean((1, 2, 3)) * weight).sum(),
        "l2": (squared.mean((1, 2, 3)) * weight).sum(),
        "worst": (squared.amax((1, 2, 3)) * weight).sum(),
    }
    own = (quantized.loss.mean(-1) * weight).sum()
    total = sum((weights[k] * parts[k] for k in weights), own)
    parts |= {name: (x.mean(-1) * weight).sum() for name, x in quantized.parts.items()}
    rows = (z.detach(), quantized.codes, counted.flatten())
    return Loss(total, parts, tuple(x.unflatten(0, counted.shape) for x in rows))
