"""Delta tokens: what the previous frame and the action leave undetermined of the next frame.

Delta-IRIS (arXiv 2406.19320), the released code's network: encoder and decoder see exactly one
previous frame and action. Differences: padding reaches neither the loss nor the codebook, and
the decoder's last convolution is float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.spaces import Image
from worldmodels.actions import ActionCodecs
from worldmodels.batch import Batch
from worldmodels.nets.conv import (
    FrameDecoder,
    FrameEncoder,
    Stages,
    from_patches,
    to_patches,
    to_uint8,
    to_unit,
)
from worldmodels.nets.init import init_normal
from worldmodels.protocols import Loss, Prev, Quantized, Quantizer
from worldmodels.tokenizers.reconstruction import Autoencoder

CHANNELS = 3


class DeltaVQ(Autoencoder):
    """K tokens for a transition (x_t, a_t) -> x_{t+1}, on a square grid of patches.

    `encoder`, `context`, `decoder` give base widths and latent channels, `stages` the fields of
    Stages, for all three; the weights of errors are Autoencoder's. In training, the decoder sees
    its previous frame through Gaussian noise of standard deviation `context_noise`, so that in
    imagination it does not magnify its own errors (GameNGen, arXiv 2408.14837, section 3.2.1).
    """

    # What changes in a place, the frame before being drawn there: a token alone shows nothing.
    square = None

    def __init__(
        self,
        *,
        space: Image,
        actions: ActionCodecs,
        quantizer: Quantizer,
        tokens: int,
        encoder: Mapping[str, Any],
        context: Mapping[str, Any],
        decoder: Mapping[str, Any],
        action_channels: int,
        context_noise: float,
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
        height, width, _ = space.shape
        shape = Stages(**stages)
        scale = shape.scale
        self.tokens, self.vocab, self.dim = tokens, quantizer.size, quantizer.dim
        self.image, self.grid = (height, width), (height // scale, width // scale)
        self.side = math.isqrt(tokens)
        self.action_channels = action_channels
        self.context_noise = context_noise
        self.encoder = FrameEncoder(2 * CHANNELS + 1, **encoder, stages=shape)
        self.context = FrameEncoder(CHANNELS, **context, stages=shape)
        inner = context["latent"] + action_channels + encoder["latent"]
        self.decoder = FrameDecoder(inner, **decoder, outer=CHANNELS, stages=shape)
        self.action_plane = actions.one_slot(height * width)
        self.action_map = actions.one_slot(action_channels * math.prod(self.grid))
        self._quantize_by(quantizer, encoder["latent"] * math.prod(self.grid) // tokens)
        self.apply(init_normal)

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        """Tokens (B,T,K) of the transitions from prev to obs (B,T,H,W,C)."""
        return self.quantizer(self._vectors(prev, obs)).codes.unflatten(0, obs.shape[:2])

    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of a window; its first frame has no step before it, and zeros."""
        tokens = self.encode(Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:])
        return F.pad(tokens, (0, 0, 1, 0))

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        """The next frames (B,T,H,W,C) uint8, on the 8-bit grid."""
        codes = self.quantizer.embed(tokens.flatten(0, 1))
        return to_uint8(self._picture(prev, codes)).unflatten(0, tokens.shape[:2])

    def loss(self, batch: Batch) -> Loss:
        """Errors of the picture and the quantizer's loss, means over the valid transitions."""
        prev, obs = Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:]
        z = self._vectors(prev, obs)
        quantized: Quantized = self.quantizer(z)
        real, picture = to_unit(obs), self._picture(prev, quantized.z, self.context_noise)
        return self._reconstruction(real, picture, z, quantized, batch.valid)

    def weight(self, batch: Batch) -> Tensor:
        """(B,): valid transitions of each row."""
        return batch.valid.sum(1)

    def _vectors(self, prev: Prev, obs: Tensor) -> Tensor:
        """One vector per token, before quantisation: (N,K,d)."""
        plane = self.action_plane(prev.act).view(-1, 1, *self.image)
        plane = plane.contiguous(memory_format=torch.channels_last)
        x = self.encoder(torch.cat((to_unit(prev.obs), plane, to_unit(obs)), 1))
        z: Tensor = self.pre(to_patches(x, self.side))
        return z

    def _picture(self, prev: Prev, codes: Tensor, noise: float = 0.0) -> Tensor:
        """Pictures (N,C,H,W) float32 from code vectors (N,K,d)."""
        action = self.action_map(prev.act).view(-1, self.action_channels, *self.grid)
        before = to_unit(prev.obs)
        if noise:
            before = before + noise * torch.randn_like(before)
        context = self.context(before)
        delta = from_patches(self.post(codes), self.grid)
        x = torch.cat((context, action.to(context.dtype), delta.to(context.dtype)), 1)
        picture: Tensor = self.decoder(x.contiguous(memory_format=torch.channels_last))
        return picture
