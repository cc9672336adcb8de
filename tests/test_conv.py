"""Frame encoders and decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.nets.conv import (
    CPU_PIECE,
    FrameDecoder,
    FrameEncoder,
    NormAct,
    ResBlock,
    Stages,
    from_patches,
    pixels,
    to_patches,
    to_uint8,
    to_unit,
)

MULT, DOWN = (1, 1, 2, 2, 4), (1, 0, 1, 1, 0)


def encoder() -> FrameEncoder:
    return FrameEncoder(3, base=8, latent=4, stages=Stages(1, 4, MULT, DOWN))


def decoder() -> FrameDecoder:
    return FrameDecoder(4, base=8, outer=3, stages=Stages(1, 4, MULT, DOWN))


def test_frames_become_unit_floats_channel_first_and_come_back_exactly() -> None:
    obs = torch.arange(256, dtype=torch.uint8).repeat(2 * 3 * 48).view(2, 3, 64, 64, 3)
    x = to_unit(obs)
    assert x.shape == (6, 3, 64, 64) and x.dtype == torch.float32
    assert x[4, 2, 5, 7] == obs[1, 1, 5, 7, 2] / torch.tensor(255.0)
    assert torch.equal(to_uint8(x), obs.flatten(0, 1))


def test_pictures_are_clamped_and_rounded_to_the_8_bit_grid() -> None:
    x = torch.tensor([-3.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.7]).view(5, 1, 1, 1)
    assert to_uint8(x).flatten().tolist() == [0, 0, 1, 255, 255]


def test_vectors_of_maps_have_the_channel_fastest() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(pixels(x)[1, (2 * 5 + 3) * 3 + 1], x[1, 1, 2, 3])


def test_patches_are_row_major_with_the_channel_fastest_and_invert() -> None:
    x = torch.randn(3, 5, 8, 8)
    patches = to_patches(x, 2)
    assert patches.shape == (3, 4, 4 * 4 * 5)
    corner = {0: x[:, :, :4, :4], 1: x[:, :, :4, 4:], 2: x[:, :, 4:, :4], 3: x[:, :, 4:, 4:]}
    for k, quadrant in corner.items():
        assert torch.equal(patches[:, k], quadrant.permute(0, 2, 3, 1).flatten(1)), k
    assert torch.equal(from_patches(patches, (8, 8)), x)


def test_patch_1_is_the_top_right_of_the_map() -> None:
    x = torch.randn(1, 4, 4, 4)
    moved = x.clone()
    moved[:, :, 0, 3] += 1
    changed = (to_patches(moved, 2) != to_patches(x, 2)).any(-1)
    assert changed.tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("channels", [2, 8, 32])
def test_norm_is_group_norm_then_silu_with_at_most_so_many_groups(channels: int) -> None:
    ours, norm = NormAct(channels, 4), nn.GroupNorm(min(4, channels), channels)
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    norm.load_state_dict(ours.state_dict())
    x = torch.randn(3, channels, 6, 6) * 3 + 1
    torch.testing.assert_close(ours(x), F.silu(norm(x)))


@pytest.mark.parametrize("outer", [8, 16])
def test_residual_block(outer: int) -> None:
    block, x = ResBlock(8, outer, 4), torch.randn(2, 8, 6, 6)
    first, second = nn.GroupNorm(4, 8), nn.GroupNorm(4, outer)
    y = block.conv1(F.silu(first(x)))
    y = block.conv2(F.silu(second(y)))
    assert isinstance(block.skip, nn.Identity) == (outer == 8)
    torch.testing.assert_close(block(x), y + block.skip(x))


def test_encoder_follows_the_published_stages() -> None:
    top: list[tuple[str, int, int]] = []
    net = encoder()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | ResBlock):
            name = type(module).__name__
            module.register_forward_hook(
                lambda _m, _x, y, name=name: top.append((name, y.shape[1], y.shape[2]))
            )
    net(torch.rand(1, 3, 64, 64))
    blocks = [(c, size) for name, c, size in top if name == "ResBlock"]
    assert blocks == [(8, 64), (8, 32), (16, 32), (16, 16), (32, 8)]
    assert top[0] == ("Conv2d", 8, 64) and top[-1] == ("Conv2d", 4, 8)


def test_decoder_follows_the_published_stages() -> None:
    shapes: list[tuple[int, int]] = []
    net = decoder()
    for module in net.modules():
        if isinstance(module, ResBlock):
            module.register_forward_hook(lambda m, _, y: shapes.append((y.shape[1], y.shape[2])))
    assert net(torch.rand(1, 4, 8, 8)).shape == (1, 3, 64, 64)
    assert shapes == [(16, 8), (16, 16), (8, 32), (8, 32), (8, 64)]


def test_grid_and_picture_keep_their_orientation() -> None:
    net, back = encoder(), decoder()
    x = torch.rand(1, 3, 64, 64)
    corner = x.clone()
    corner[:, :, :4, -4:] += 0.5
    # Norms see the whole picture, so every cell moves a little and the touched one most.
    moved = (net(corner) - net(x)).abs().sum(1)[0]
    row, column = divmod(int(moved.argmax()), moved.shape[1])
    assert row < len(moved) / 2 <= column
    z = torch.randn(1, 4, 8, 8)
    touched = z.clone()
    touched[..., 0, -1] += 3
    change = (back(touched) - back(z)).abs().sum(1)[0]
    row, column = divmod(int(change.argmax()), 64)
    assert row < 32 <= column


def test_patches_fold_pixels_into_channels_and_back() -> None:
    sizes: Any = {"base": 8, "stages": Stages(4, 4, (1, 2), (1, 0))}
    net, back = FrameEncoder(3, latent=4, **sizes), FrameDecoder(4, outer=3, **sizes)
    z = net(torch.rand(2, 3, 64, 64))
    assert z.shape == (2, 4, 8, 8) and back(z).shape == (2, 3, 64, 64)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(back.unfold(net.net[0](x)), x)


@pytest.mark.parametrize("patch", [1, 4])
def test_no_frames_have_no_maps(patch: int) -> None:
    net = FrameEncoder(3, base=8, latent=4, stages=Stages(patch, 4, (1, 2), (1, 0)))
    assert net(torch.rand(0, 3, 64, 48)).shape == (0, 4, 32 // patch, 24 // patch)


@pytest.mark.parametrize("make", [encoder, decoder])
def test_pieces_give_what_the_whole_batch_gives(make: type[nn.Module]) -> None:
    net = make()
    x = torch.rand(2 * CPU_PIECE + 3, 3, 16, 16)
    x = x if make is encoder else torch.rand(2 * CPU_PIECE + 3, 4, 2, 2)
    with torch.no_grad():
        pieces = net(x)
    whole = net(x)
    alone: Tensor = net(x[-1:])
    torch.testing.assert_close(pieces, whole.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, whole[-1:], atol=1e-5, rtol=1e-4)


def test_decoder_has_no_activation_and_ends_in_float32() -> None:
    net = decoder()
    assert net.out.bias is not None
    nn.init.constant_(net.out.bias, 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = net(torch.rand(1, 4, 8, 8))
    assert x.dtype == torch.float32 and x.min() > 2
    # More levels than bfloat16 has near 5: the last layer was not rounded to it.
    assert (x != x.bfloat16().float()).float().mean() > 0.9
