"""IRIS's actor-critic (arXiv 2209.00588): plain convolutions and pooling before the LSTM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from agents.actor_critics.lstm import LstmPolicy
from envs.spaces import Space
from worldmodels.nets.conv import Encoder, conv3
from worldmodels.nets.eyes import eyes


class PoolEncoder(Encoder):
    """A stage for each width: conv3x3, the maximum of each 2x2 pixels, ReLU.

    Pictures come in [0,1] and are scaled to [-1,1]. Pixels are first folded into channels by
    squares of `patch`.
    """

    def __init__(self, inner: int, *, widths: Sequence[int], patch: int) -> None:
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch)]
        for before, width in zip((inner * patch**2, *widths), widths, strict=False):
            layers += [conv3(before, width), nn.MaxPool2d(2), nn.ReLU()]
        scale = patch * 2 ** len(widths)
        super().__init__(layers, base=widths[0], latent=widths[-1], patch=patch, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x - 1)


def pool_lstm(
    *,
    space: Space,
    outputs: int,
    widths: Sequence[int],
    patch: int,
    hidden: int,
    value: str,
) -> LstmPolicy:
    """`widths` and `patch` are PoolEncoder's; the rest is for LstmPolicy."""
    encoder, features = eyes(space, lambda: PoolEncoder(3, widths=widths, patch=patch), hidden)
    return LstmPolicy(encoder, features, outputs=outputs, hidden=hidden, value=value)
