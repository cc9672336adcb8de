"""VQGAN's frame encoder and decoder, as IRIS has them: deeper than conv's, with self-attention.

Taming Transformers (arXiv 2012.09841), IRIS (arXiv 2209.00588). Differences: a norm's epsilon is
1e-5, not 1e-6, and there is no dropout (the published rate is 0).
Axes: N frames, H W image, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.nets.conv import Decoder, Encoder, NormAct, ResBlock, Stages, Up, conv3


@dataclass(frozen=True)
class DeepStages(Stages):
    """Stages of `blocks` ResBlocks each, and one more in a decoder.

    Where attend[i], self-attention follows each ResBlock of stage i.
    """

    blocks: int
    attend: Sequence[int]


class SelfAttention(nn.Module):
    """Added to x (N,C,H,W): attention of every place to every place, one head, after a norm."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(groups, channels), channels)
        # Not Linear layers: their weights neither decay nor start anew.
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.group_norm(x.float(), self.norm.num_groups, self.norm.weight, self.norm.bias)
        rows = self.qkv(y.to(x.dtype)).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = (part[:, None] for part in rows.chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v)[:, 0]
        y = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        mixed: Tensor = self.out(y)
        return x + mixed


class Halve(nn.Module):
    """conv3x3 of stride 2; the picture gets one more row and column, below and at the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class DeepEncoder(Encoder):
    """Stages, each halving the picture at its end where it should, then a middle, then `latent`."""

    def __init__(self, inner: int, *, base: int, latent: int, stages: DeepStages) -> None:
        patch, groups, width = stages.patch, stages.groups, base
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch), conv3(inner * patch**2, base)]
        for m, d, attend in zip(stages.mult, stages.down, stages.attend, strict=True):
            layers += _stage(width, base * m, stages.blocks, attend, groups)
            width = base * m
            if d:
                layers.append(Halve(width))
        layers += [*_middle(width, groups), NormAct(width, groups), conv3(width, latent)]
        super().__init__(layers, base=base, latent=latent, patch=patch, scale=stages.scale)


class DeepDecoder(Decoder):
    """DeepEncoder run backwards, with one more ResBlock in each stage."""

    def __init__(self, latent: int, *, base: int, outer: int, stages: DeepStages) -> None:
        groups, widths = stages.groups, [base * m for m in stages.mult]
        width = widths[-1]
        layers: list[nn.Module] = [conv3(latent, width), *_middle(width, groups)]
        for i in reversed(range(len(widths))):
            if stages.down[i]:
                layers.append(Up(width))
            layers += _stage(width, widths[i], stages.blocks + 1, stages.attend[i], groups)
            width = widths[i]
        layers.append(NormAct(width, groups))
        super().__init__(layers, width=width, outer=outer, patch=stages.patch)


def _stage(inner: int, outer: int, blocks: int, attend: int, groups: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers.append(ResBlock(outer if i else inner, outer, groups))
        if attend:
            layers.append(SelfAttention(outer, groups))
    return layers


def _middle(width: int, groups: int) -> list[nn.Module]:
    first, second = ResBlock(width, width, groups), ResBlock(width, width, groups)
    return [first, SelfAttention(width, groups), second]
