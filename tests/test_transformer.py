"""The transformer, its cache and its masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets import shake
from worldmodels.nets.transformer import Block, Transformer, _mask, attend

DIM, HEADS, CAPACITY = 16, 4, 20


def transformer() -> Transformer:
    net = Transformer(dim=DIM, layers=2, heads=HEADS, capacity=CAPACITY)
    shake(net)
    return net


def padded(batch: int = 3, length: int = 14) -> tuple[Tensor, Tensor]:
    """Positions and which are visible: none, some and all but one of the front are padding."""
    visible = torch.ones(batch, length, dtype=torch.bool)
    visible[1, :5] = False
    visible[2, : length - 1] = False
    return torch.randn(batch, length, DIM), visible


def plain(net: Transformer, x: Tensor) -> Tensor:
    """The same network from torch's own parts, without padding."""
    length = x.shape[1]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    x = x + net.position(torch.arange(length))
    for block in net.blocks:
        assert isinstance(block, Block)
        attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        weights = (block.qkv.weight, block.qkv.bias, block.out.weight, block.out.bias)
        attention.load_state_dict(dict(zip(names, weights, strict=True)))
        y = block.norm1(x)
        x = x + attention(y, y, y, attn_mask=later, need_weights=False)[0]
        hidden = block.mlp[0](block.norm2(x))
        x = x + block.mlp[2](hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    out: Tensor = net.norm(x)
    return out


def test_it_is_a_pre_norm_transformer_with_exact_gelu() -> None:
    net, (x, _) = transformer(), padded()
    ours = net(x, torch.ones(x.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(ours, plain(net, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("splits", [[14], [1] * 14, [6, 1, 3, 4]])
def test_cached_and_uncached_features_agree(splits: list[int]) -> None:
    net, (x, visible) = transformer(), padded()
    whole = net(x, visible)
    cache, got = net.empty(len(x)), []
    for piece, seen in zip(x.split(splits, 1), visible.split(splits, 1), strict=True):
        cache, feats = net.extend(cache, piece, seen)
        got.append(feats)
    assert cache.filled == 14
    torch.testing.assert_close(torch.cat(got, 1), whole, atol=1e-5, rtol=1e-5)


def test_arranged_in_a_row_features_are_those_of_a_row() -> None:
    net, (x, visible) = transformer(), padded()
    row = torch.arange(14)
    got = net.arranged(x, visible, row, row <= row[:, None])
    torch.testing.assert_close(got, net(x, visible), atol=1e-6, rtol=1e-6)


def test_two_arranged_branches_are_each_the_row_they_continue() -> None:
    """Ten positions, then twice the last four: at the same places, out of each other's sight."""
    net, (x, visible) = transformer(), padded()
    other = torch.randn(3, 4, DIM)
    index, branch = torch.arange(18), torch.tensor([0] * 10 + [1] * 4 + [2] * 4)
    place = torch.where(branch == 2, index - 4, index)
    known = (branch == 0) | (branch == branch[:, None])
    both = torch.cat((visible, visible[:, -4:]), 1)
    got = net.arranged(torch.cat((x, other), 1), both, place, known & (index <= index[:, None]))
    torch.testing.assert_close(got[:, :14], net(x, visible), atol=1e-5, rtol=1e-5)
    second = net(torch.cat((x[:, :10], other), 1), visible)
    torch.testing.assert_close(got[:, 14:], second[:, 10:], atol=1e-5, rtol=1e-5)


def test_positions_without_a_mask_are_visible() -> None:
    net, (x, _) = transformer(), padded()
    ones = torch.ones(x.shape[:2], dtype=torch.bool)
    assert torch.equal(net.extend(net.empty(3), x)[1], net.extend(net.empty(3), x, ones)[1])


def test_no_position_sees_a_later_one_or_padding() -> None:
    net, (x, visible) = transformer(), padded()
    base, later = net(x, visible), x.clone()
    later[:, 9:] = torch.randn_like(later[:, 9:])
    assert torch.equal(net(later, visible)[:, :9], base[:, :9])
    assert not torch.isclose(net(later, visible)[:, 9:], base[:, 9:]).all(-1).any()
    noise = torch.where(visible[..., None], x, torch.randn_like(x) * 10)
    assert torch.equal(net(noise, visible)[visible], base[visible])


def test_every_visible_position_sees_all_visible_ones_before_it() -> None:
    net, (x, visible) = transformer(), padded()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(net(x, visible)[:, -1].square().sum(), x)
    assert torch.equal((grad != 0).any(-1), visible)


def test_rows_of_padding_are_finite_with_finite_gradients() -> None:
    net, (x, _) = transformer(), padded()
    feats = net(x.requires_grad_(), torch.zeros(x.shape[:2], dtype=torch.bool))
    feats.sum().backward()
    assert feats.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("start", [0, 9])
def test_attention_on_a_cpu_is_torchs(start: int) -> None:
    """Under the masks of whole sequences and of later positions, with rows of padding alone."""
    _, visible = padded()
    visible = torch.cat((visible, torch.zeros_like(visible[:1])))
    batch, length = visible.shape
    q = torch.randn(batch, HEADS, length - start, 8)
    k, v = torch.randn(2, batch, HEADS, length, 8)
    mask = _mask(visible, length - start, start)
    assert not visible[-1].any() and bool((mask[-1].sum(-1) == 1).all())
    ours = attend(q, k, v, mask)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    torch.testing.assert_close(ours[-1], v[-1, :, start:])
    torch.testing.assert_close(attend(q, k, v, None), F.scaled_dot_product_attention(q, k, v))


def test_a_cache_refuses_more_than_it_holds_and_takes_the_type_of_autocast() -> None:
    net = transformer()
    cache, _ = net.extend(net.empty(1), torch.randn(1, CAPACITY, DIM))
    with pytest.raises(AssertionError):
        net.extend(cache, torch.randn(1, 1, DIM))
    assert net.empty(1).keys.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net.empty(1).keys.dtype == torch.bfloat16


def dropping(share: float = 0.3) -> Transformer:
    net = Transformer(dim=DIM, layers=2, heads=HEADS, capacity=CAPACITY, dropout=share)
    shake(net)
    return net


def test_dropout_is_for_whole_sequences_in_training_alone() -> None:
    net, (x, visible) = dropping(), padded()
    assert not torch.equal(net(x, visible), net(x, visible))
    state = torch.get_rng_state()
    cached = net.extend(net.empty(len(x)), x, visible)[1]
    exact = net.eval()(x, visible)
    torch.testing.assert_close(cached, exact, atol=1e-5, rtol=1e-5)
    net.train().dropout = 0.0
    assert torch.equal(net(x, visible), exact)
    assert torch.equal(torch.get_rng_state(), state), "nothing was drawn"


def test_dropout_is_of_embeddings_attention_and_what_blocks_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, (x, visible) = dropping(), padded()
    dropped: list[tuple[torch.Size, float]] = []

    def noted(y: Tensor, share: float) -> Tensor:
        dropped.append((y.shape, share))
        return y

    monkeypatch.setattr(F, "dropout", noted)
    net(x, visible)
    attended = torch.Size((3, HEADS, 14, 14))
    block = [attended, x.shape, x.shape]
    assert dropped == [(shape, 0.3) for shape in (x.shape, *block, *block)]


@pytest.mark.parametrize("fed", [1, 5])
def test_to_peek_is_to_extend_without_a_trace(fed: int) -> None:
    net = Transformer(dim=16, layers=2, heads=2, capacity=9)
    visible = torch.rand(3, fed) < 0.5
    with torch.no_grad():
        cache, _ = net.extend(net.empty(3), torch.randn(3, fed, 16), visible)
        # What an abandoned continuation left behind does not count.
        net.extend(cache, torch.randn(3, 4, 16))
    x = torch.randn(3, 3, 16, requires_grad=True)
    before = (cache.keys.clone(), cache.values.clone(), cache.visible.clone())
    peeked = net.peek(cache, x)
    (slope,) = torch.autograd.grad(peeked.square().sum(), x)
    assert slope.abs().amin(1).all()
    after = (cache.keys, cache.values, cache.visible)
    assert all(
        torch.equal(a, b) and not a.requires_grad for a, b in zip(after, before, strict=True)
    )
    with torch.no_grad():
        assert torch.equal(net.extend(cache, x)[1], peeked)
    with pytest.raises(AssertionError, match="beyond"):
        net.peek(cache, torch.randn(3, 10, 16))
