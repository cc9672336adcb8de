"""What tokenizers share that make pictures from codes, and what their mistakes cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldmodels.protocols import Loss, Quantized, Quantizer


class Autoencoder(nn.Module):
    """A tokenizer whose tokens are the codes of its quantizer."""

    quantizer: Quantizer

    def embed(self, tokens: Tensor) -> Tensor:
        """The quantizer's vectors (...,dim) of tokens (...)."""
        return self.quantizer.embed(tokens)

    def known(self) -> None:
        """All tokens stand for something."""

    @torch.no_grad()
    def learn(self, seen: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Update the codebook from (vectors (B,T,K,d), codes (B,T,K), counted (B,T))."""
        z, codes, counted = seen
        return self.quantizer.update(z, codes, counted[..., None].expand_as(codes).float())


def errors(error: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """l1, l2 and worst: absolute, squared and largest squared error, means over frames that count.

    error (B*T,C,H,W) in [0,1] pixel units; counted (B,T) bool.
    """
    weight, squared = shares(counted), error.square()
    return {
        "l1": (error.abs().mean((1, 2, 3)) * weight).sum(),
        "l2": (squared.mean((1, 2, 3)) * weight).sum(),
        "worst": (squared.amax((1, 2, 3)) * weight).sum(),
    }


def reconstruction(
    error: Tensor, z: Tensor, quantized: Quantized, counted: Tensor, weights: Mapping[str, float]
) -> Loss:
    """Weighted l1, l2 and worst pixel, and the quantizer's loss; means over counted (B,T) frames.

    error (B*T,C,H,W) in [0,1] pixel units; z (B*T,K,d): the vectors that were quantized. `learn`
    is (vectors (B,T,K,d), codes (B,T,K), counted (B,T)).
    """
    weight, parts = shares(counted), errors(error, counted)
    own = (quantized.loss.mean(-1) * weight).sum()
    total = sum((weights[k] * parts[k] for k in weights), own)
    parts |= {name: (x.mean(-1) * weight).sum() for name, x in quantized.parts.items()}
    rows = (z.detach(), quantized.codes, counted.flatten())
    return Loss(total, parts, tuple(x.unflatten(0, counted.shape) for x in rows))


def shares(counted: Tensor) -> Tensor:
    """(B*T,): what each frame counts of a mean over those with counted (B,T)."""
    weight = counted.flatten().float()
    return weight / weight.sum().clamp_min(1)
