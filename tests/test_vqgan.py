"""The frame encoder and decoder with self-attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.nets.conv import CPU_PIECE, ResBlock
from worldmodels.nets.vqgan import DeepDecoder, DeepEncoder, DeepStages, Halve, SelfAttention

STAGES = DeepStages(1, 4, (1, 1, 1, 1, 1), (1, 1, 1, 1, 0), 2, (0, 0, 1, 1, 0))
WIDER = DeepStages(8, 4, (1, 2), (1, 0), 1, (1, 0))


def maps(net: nn.Module, x: Tensor) -> list[tuple[str, int, int]]:
    """What the blocks of a network make, in order: name, channels, height."""
    found: list[tuple[str, int, int]] = []
    for module in net.modules():
        if isinstance(module, ResBlock | SelfAttention):
            name = "R" if isinstance(module, ResBlock) else "A"
            module.register_forward_hook(
                lambda _m, _x, y, name=name: found.append((name, y.shape[1], y.shape[2]))
            )
    net(x)
    return found


def test_encoder_follows_the_published_stages() -> None:
    found = maps(DeepEncoder(3, base=8, latent=16, stages=STAGES), torch.rand(1, 3, 64, 64))
    stages = [("R", size) for size in (64, 64, 32, 32)]
    stages += [(name, size) for size in (16, 8) for name in "RARA"]
    assert [(name, size) for name, _, size in found] == [*stages, *((n, 4) for n in "RRRAR")]


def test_decoder_follows_the_published_stages() -> None:
    net = DeepDecoder(16, base=8, outer=3, stages=STAGES)
    found = maps(net, torch.rand(1, 16, 4, 4))
    stages = [("R", 4)] * 3 + [(name, size) for size in (8, 16) for name in "RARARA"]
    stages += [("R", size) for size in (32, 32, 32, 64, 64, 64)]
    assert [(name, size) for name, _, size in found] == [*((n, 4) for n in "RAR"), *stages]
    assert net(torch.rand(2, 16, 4, 4)).shape == (2, 3, 64, 64)


def test_widths_differ_by_stage() -> None:
    net = DeepEncoder(3, base=8, latent=5, stages=WIDER)
    assert maps(net, torch.rand(1, 3, 64, 64)) == [
        *(("R", 8, 8), ("A", 8, 8), ("R", 16, 4)),
        *(("R", 16, 4), ("A", 16, 4), ("R", 16, 4)),
    ]
    back = DeepDecoder(5, base=8, outer=3, stages=WIDER)
    assert maps(back, torch.rand(1, 5, 4, 4)) == [
        *(("R", 16, 4), ("A", 16, 4), ("R", 16, 4)),
        *(("R", 16, 4), ("R", 16, 4), ("R", 8, 8), ("A", 8, 8), ("R", 8, 8), ("A", 8, 8)),
    ]


def test_attention_is_that_of_one_head_between_all_places() -> None:
    net, x = SelfAttention(8, 4), torch.randn(2, 8, 3, 5) * 3 + 1
    norm = net.norm(x)
    q, k, v = (F.conv2d(norm, w, b) for w, b in zip(*parts(net), strict=True))
    scores = torch.einsum("ncij,nckl->nijkl", q, k).flatten(3) / 8**0.5
    mixed = torch.einsum("nijp,ncp->ncij", scores.softmax(-1), v.flatten(2))
    torch.testing.assert_close(net(x), x + net.out(mixed), atol=1e-5, rtol=1e-4)


def parts(net: SelfAttention) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights and biases of queries, keys and values."""
    assert net.qkv.bias is not None
    return net.qkv.weight.chunk(3), net.qkv.bias.chunk(3)


def test_halving_pads_below_and_at_the_right() -> None:
    net = Halve(2)
    x = torch.randn(1, 2, 4, 6)
    padded = torch.zeros(1, 2, 5, 7)
    padded[:, :, :4, :6] = x
    assert torch.equal(net(x), net.conv(padded)) and net(x).shape == (1, 2, 2, 3)


@pytest.mark.parametrize("stages", [STAGES, WIDER])
def test_pieces_give_what_the_whole_batch_gives(stages: DeepStages) -> None:
    sizes: Any = {"base": 8, "stages": stages}
    net, back = DeepEncoder(3, latent=4, **sizes), DeepDecoder(4, outer=3, **sizes)
    x = torch.rand(CPU_PIECE + 3, 3, 64, 64)
    with torch.no_grad():
        z, picture = net(x), back(net(x))
        assert z.shape == (len(x), 4, 4, 4) and picture.shape == x.shape
        last = net(x[-1:])
        torch.testing.assert_close(last, z[-1:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(back(last), picture[-1:], atol=1e-4, rtol=1e-4)
    assert net(x[:0]).shape == (0, 4, 4, 4)


def test_every_parameter_learns_under_autocast() -> None:
    sizes: Any = {"base": 8, "stages": WIDER}
    net, back = DeepEncoder(3, latent=4, **sizes), DeepDecoder(4, outer=3, **sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        picture = back(net(torch.rand(2, 3, 64, 64)))
    assert picture.dtype == torch.float32
    picture.square().mean().backward()
    named = [*net.named_parameters(), *back.named_parameters()]
    silent = {name for name, p in named if p.grad is None or not p.grad.any()}
    assert not silent
