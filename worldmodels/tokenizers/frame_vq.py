"""Frame tokens: what a single frame shows, whatever came before it.

IRIS (arXiv 2209.00588) with VQGAN's network (arXiv 2012.09841). Differences: the perceptual
loss may be left out, padding reaches neither the loss nor the codebook, and the decoder's last
convolution is float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from envs.spaces import Image
from worldmodels.actions import ActionCodecs
from worldmodels.batch import Batch
from worldmodels.nets.conv import from_patches, to_patches, to_uint8, to_unit
from worldmodels.nets.vqgan import DeepDecoder, DeepEncoder, DeepStages
from worldmodels.protocols import Loss, Prev, Quantized, Quantizer
from worldmodels.tokenizers.reconstruction import Autoencoder

CHANNELS = 3


class FrameVQ(Autoencoder):
    """K tokens for a frame, on a square grid of patches; the step before plays no part.

    `encoder`, `decoder` give base widths and latent channels, `stages` the fields of DeepStages,
    for both; the weights of errors are Autoencoder's. Inside, pixels are in [-1,1]. Actions do
    not matter.
    """

    def __init__(
        self,
        *,
        space: Image,
        actions: ActionCodecs,
        quantizer: Quantizer,
        tokens: int,
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        l1: float,
        l2: float,
        worst: float,
        perceptual: float,
        perceptual_weights: str | None,
        **stages: Any,
    ) -> None:
        super().__init__(
            l1=l1,
            l2=l2,
            worst=worst,
            perceptual=perceptual,
            perceptual_weights=perceptual_weights,
        )
        shape = DeepStages(**stages)
        self.tokens, self.vocab, self.dim = tokens, quantizer.size, quantizer.dim
        height, width, _ = space.shape
        self.grid = (height // shape.scale, width // shape.scale)
        side = math.isqrt(tokens)
        self.square = (height // side, width // side)
        self.encoder = DeepEncoder(CHANNELS, **encoder, stages=shape)
        self.decoder = DeepDecoder(encoder["latent"], **decoder, outer=CHANNELS, stages=shape)
        self._quantize_by(quantizer, encoder["latent"] * math.prod(self.grid) // tokens)

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        """Tokens (B,T,K) of frames (B,T,H,W,C)."""
        return self._tokens(obs)

    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of all frames of a window."""
        return self._tokens(batch.obs)

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        """Frames (B,T,H,W,C) uint8, on the 8-bit grid."""
        codes = self.quantizer.embed(tokens.flatten(0, 1))
        return to_uint8(self._picture(codes)).unflatten(0, tokens.shape[:2])

    def loss(self, batch: Batch) -> Loss:
        """Errors of the picture and the quantizer's loss, means over the real frames."""
        z = self._vectors(batch.obs)
        quantized: Quantized = self.quantizer(z)
        real, picture = to_unit(batch.obs), self._picture(quantized.z)
        return self._reconstruction(real, picture, z, quantized, batch.seen)

    def weight(self, batch: Batch) -> Tensor:
        """(B,): real frames of each row."""
        return batch.seen.sum(1)

    def _tokens(self, obs: Tensor) -> Tensor:
        return self.quantizer(self._vectors(obs)).codes.unflatten(0, obs.shape[:2])

    def _vectors(self, obs: Tensor) -> Tensor:
        """One vector per token, before quantisation: (N,K,d)."""
        x = self.encoder(2 * to_unit(obs) - 1)
        z: Tensor = self.pre(to_patches(x, math.isqrt(self.tokens)))
        return z

    def _picture(self, codes: Tensor) -> Tensor:
        """Pictures (N,C,H,W) float32 in [0,1] pixel units from code vectors (N,K,d)."""
        x = from_patches(self.post(codes), self.grid)
        picture: Tensor = self.decoder(x.contiguous(memory_format=torch.channels_last))
        return (picture + 1) / 2
