"""Convolutional frame encoder and decoder, the two templates of every picture network here.

Axes: N frames, H W image, C channels. Activations are stored channel last, which is how
uint8 frames arrive and what bfloat16 convolutions are fast on, on CPUs and GPUs alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.nets.lpips import Lpips

# Without gradients a CPU runs large batches in pieces that stay in its caches
# (16 to 32 frames of 64 channels); the result is the same, as frames do not interact.
CPU_PIECE = 32


@dataclass(frozen=True)
class Stages:
    """The shape of an encoder, and of the decoder that inverts it.

    Pixels are first folded into channels by squares of `patch` x `patch`, which makes tiny presets
    cheap. Stage i has mult[i] base widths and ends by halving the picture if down[i]. Norms have
    at most `groups` groups: a CPU norms wide ones several times faster than those of 1 channel.
    """

    patch: int
    groups: int
    mult: Sequence[int]
    down: Sequence[int]

    @property
    def scale(self) -> int:
        """Pixels of the picture along one side of a square of the grid."""
        return int(self.patch * 2 ** sum(self.down))


def to_unit(obs: Tensor) -> Tensor:
    """uint8 frames (...,H,W,C) to float32 (N,C,H,W) in [0,1], channels-last in memory."""
    return obs.flatten(0, -4).permute(0, 3, 1, 2).float() / 255


def to_uint8(x: Tensor) -> Tensor:
    """Float frames (N,C,H,W) to uint8 (N,H,W,C): clamped to [0,1], rounded to the 8-bit grid."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def pixels(x: Tensor) -> Tensor:
    """Feature maps (N,C,H,W) to vectors (N,H*W*C), channel fastest."""
    return x.permute(0, 2, 3, 1).flatten(1)


def to_patches(x: Tensor, side: int) -> Tensor:
    """(N,C,H,W) to (N,side*side,D): row-major patches, each ordered (row, column, channel)."""
    height, width = x.shape[2] // side, x.shape[3] // side
    x = x.permute(0, 2, 3, 1).reshape(len(x), side, height, side, width, x.shape[1])
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def from_patches(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of to_patches, for feature maps of size `grid`."""
    side = math.isqrt(x.shape[1])
    height, width = grid[0] // side, grid[1] // side
    channels = x.shape[2] // (height * width)
    x = x.reshape(len(x), side, side, height, width, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), *grid, channels).permute(0, 3, 1, 2)


class NormAct(nn.Module):
    """GroupNorm with at most `groups` groups, then SiLU, in float32, returned in x's type."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = min(groups, channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # float32 here is also the faster way on a CPU: its bfloat16 kernel is scalar.
        y = F.group_norm(x.float(), self.groups, self.weight, self.bias)
        return F.silu(y).to(x.dtype)


class ResBlock(nn.Module):
    """Norm, act, conv3x3, twice, added to the input (1x1 conv on the skip if widths differ)."""

    def __init__(self, inner: int, outer: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = NormAct(inner, groups), conv3(inner, outer)
        self.norm2, self.conv2 = NormAct(outer, groups), conv3(outer, outer)
        self.skip = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return self.skip(x) + y


class Up(nn.Module):
    """Nearest-neighbour doubling, then conv3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def conv3(inner: int, outer: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(inner, outer, 3, padding=1)


class Encoder(nn.Module):
    """Layers that make feature maps (N,latent,H/scale,W/scale) of pictures (N,inner,H,W).

    Their widest map has `base` channels of the picture folded by squares of `patch`.
    """

    def __init__(
        self, layers: Sequence[nn.Module], *, base: int, latent: int, patch: int, scale: int
    ) -> None:
        super().__init__()
        self.base, self.latent, self.patch, self.scale = base, latent, patch, scale
        self.net = nn.Sequential(*layers)
        _channels_last(self)

    @property
    def widest(self) -> int:
        """Numbers that the widest map of one 64x64 frame holds."""
        return self.base * (64 // self.patch) ** 2

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            # torch's PixelUnshuffle folds nothing where there is no frame.
            height, width = x.shape[-2] // self.scale, x.shape[-1] // self.scale
            return x.new_zeros(0, self.latent, height, width)
        return _in_pieces(self.net, x)

    def see(self, obs: Tensor) -> Tensor:
        """Features (...,F) of frames (...,H,W,C) uint8: the map's vectors in a row."""
        return pixels(self(to_unit(obs))).unflatten(0, obs.shape[:-3])

    def features(self, height: int, width: int) -> int:
        """F of frames of that size."""
        return self.latent * (height // self.scale) * (width // self.scale)


class Decoder(nn.Module):
    """Layers from feature maps (N,latent,h,w) to `width` channels, then pictures (N,outer,H,W).

    The last convolution runs in float32 and has no activation: bfloat16 near 1 is no finer
    than a grey level.
    """

    def __init__(self, layers: Sequence[nn.Module], *, width: int, outer: int, patch: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)
        self.out = conv3(width, outer * patch**2)
        self.unfold = nn.PixelShuffle(patch)
        _channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        return _in_pieces(self._decode, x)

    def _decode(self, x: Tensor) -> Tensor:
        y = self.net(x)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.unfold(self.out(y.float()))
        return out


class FrameEncoder(Encoder):
    """A stage is a ResBlock, then a strided 2x2 convolution if it halves the picture."""

    def __init__(self, inner: int, *, base: int, latent: int, stages: Stages) -> None:
        patch, groups, width = stages.patch, stages.groups, base
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), conv3(inner * patch**2, base)]
        for m, d in zip(stages.mult, stages.down, strict=True):
            layers.append(ResBlock(width, base * m, groups))
            width = base * m
            if d:
                layers.append(nn.Conv2d(width, width, 2, stride=2))
        layers += [NormAct(width, groups), conv3(width, latent)]
        super().__init__(layers, base=base, latent=latent, patch=patch, scale=stages.scale)


class FrameDecoder(Decoder):
    """FrameEncoder run backwards."""

    def __init__(self, latent: int, *, base: int, outer: int, stages: Stages) -> None:
        widths = [base * m for m in stages.mult]
        layers: list[nn.Module] = [conv3(latent, widths[-1])]
        for i in reversed(range(len(widths))):
            if stages.down[i]:
                layers.append(Up(widths[i]))
            layers.append(ResBlock(widths[i], widths[max(i - 1, 0)], stages.groups))
        layers.append(NormAct(widths[0], stages.groups))
        super().__init__(layers, width=widths[0], outer=outer, patch=stages.patch)


def largest_map(module: nn.Module) -> int:
    """Numbers that the widest map of one 64x64 frame holds in the networks that `module` has."""
    return max((m.widest for m in module.modules() if isinstance(m, Encoder | Lpips)), default=1)


def _channels_last(module: nn.Module) -> None:
    for weight in module.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def _in_pieces(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or x.device.type != "cpu" or len(x) <= CPU_PIECE:
        return net(x)
    return torch.cat([net(piece) for piece in x.split(CPU_PIECE)])
