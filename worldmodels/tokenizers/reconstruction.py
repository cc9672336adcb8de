"""What tokenizers share that make pictures from codes, and what their mistakes cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldmodels.nets.lpips import Lpips
from worldmodels.nets.lpips_files import folder_of
from worldmodels.protocols import Loss, Quantized, Quantizer


class Autoencoder(nn.Module):
    """A tokenizer whose tokens are the codes of its quantizer.

    l1, l2 and worst weigh mean absolute error, mean squared error and the largest squared error
    of a frame, in [0,1] pixel units; perceptual weighs LPIPS, whose files are in the folder
    `perceptual_weights`, of None torch.hub's. Of weight 0 it is not there at all.
    """

    quantizer: Quantizer
    spans: Mapping[str, slice] = {}

    def __init__(
        self,
        *,
        l1: float,
        l2: float,
        worst: float,
        perceptual: float,
        perceptual_weights: str | None,
    ) -> None:
        super().__init__()
        self.weights = {"l1": l1, "l2": l2, "worst": worst}
        self.perceptual: Lpips | None = None
        if perceptual:
            self.weights["perceptual"] = perceptual
            self.perceptual = Lpips(folder_of(perceptual_weights))

    def _quantize_by(self, quantizer: Quantizer, numbers: int) -> None:
        """Build what lies between the `numbers` of a token's patch and the quantizer's vectors."""
        self.pre, self.post = (
            nn.Linear(numbers, quantizer.dim),
            nn.Linear(quantizer.dim, numbers),
        )
        self.quantizer = quantizer

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

    def _reconstruction(
        self, real: Tensor, picture: Tensor, z: Tensor, quantized: Quantized, counted: Tensor
    ) -> Loss:
        """Weighted errors and the quantizer's loss; means over the frames with counted (B,T).

        real, picture (B*T,C,H,W) in [0,1] pixel units; z (B*T,K,d): the vectors that were
        quantized. `learn` is (vectors (B,T,K,d), codes (B,T,K), counted (B,T)).
        """
        weight, parts = shares(counted), errors(real - picture, counted)
        if self.perceptual is not None:
            parts["perceptual"] = (self.perceptual(real, picture) * weight).sum()
        own = (quantized.loss.mean(-1) * weight).sum()
        total = sum((self.weights[k] * parts[k] for k in self.weights), own)
        parts |= {name: (x.mean(-1) * weight).sum() for name, x in quantized.parts.items()}
        rows = (z.detach(), quantized.codes, counted.flatten())
        return Loss(total, parts, tuple(x.unflatten(0, counted.shape) for x in rows))


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


def number_errors(error: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """The same of vectors (B,T,D), in whatever units they are; means over those that count."""
    weight, squared = shares(counted), error.flatten(0, 1).square()
    return {
        "l1": (error.flatten(0, 1).abs().mean(1) * weight).sum(),
        "l2": (squared.mean(1) * weight).sum(),
        "worst": (squared.amax(1) * weight).sum(),
    }


def shares(counted: Tensor) -> Tensor:
    """(B*T,): what each frame counts of a mean over those with counted (B,T)."""
    weight = counted.flatten().float()
    return weight / weight.sum().clamp_min(1)
