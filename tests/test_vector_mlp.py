"""A few tokens for a vector: what they tell, what they learn, what scales them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from runners.checkpoint import load, save
from tests.nets import gradients, no_waiting
from tests.quantizers import same, small_quantizer, state
from worldmodels.nets.heads import symexp, symlog
from worldmodels.nets.running_scale import LEAST, RunningScale
from worldmodels.tokenizers.vector_mlp import VectorMlp

DIMS, TOKENS = 7, 3
SPREAD = torch.tensor([1.0, 1e-2, 30.0, 1.0, 1e3, 0.1, 1.0])


def tokenizer(kind: str = "fsq", decay: float = 0.99) -> VectorMlp:
    quantizer = small_quantizer(kind, tokens=TOKENS)
    return VectorMlp(
        size=DIMS, quantizer=quantizer, tokens=TOKENS, hidden=32, layers=2, decay=decay
    )


def vectors(seed: int = 0, rows: int = 8, steps: int = 5) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, steps, DIMS, generator=rng) * SPREAD


def counted(seed: int = 0, rows: int = 8, steps: int = 5) -> Tensor:
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed)) < 0.7


def train(net: VectorMlp, steps: int, x: Tensor | None = None) -> list[float]:
    optimizer, losses = torch.optim.Adam(net.parameters(), 3e-3), []
    for step in range(steps):
        batch = vectors(step, 32) if x is None else x
        loss = net.loss(batch, torch.ones(batch.shape[:2]).bool())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        net.learn(loss.learn)
        losses.append(float(loss.parts["scaled_l2"].detach()))
    return losses


@pytest.mark.parametrize("kind", ["fsq", "vq_ema", "lfq"])
def test_it_keeps_the_promises_of_tokenizers(kind: str) -> None:
    net, x = tokenizer(kind), vectors()
    before = state(net)
    tokens = net.train().encode(x)
    assert torch.equal(net.eval().encode(x), tokens)
    assert tokens.shape == (8, 5, TOKENS) and tokens.dtype == torch.int64
    assert tokens.min() >= 0 and tokens.max() < net.vocab
    shown = net.decode(tokens)
    assert shown.shape == x.shape and shown.dtype == torch.float32 and shown.isfinite().all()
    assert net.embed(tokens).shape == (*tokens.shape, net.dim)
    loss = net.loss(x, counted())
    assert set(gradients(net, loss.total)) == {name for name, _ in net.named_parameters()}
    assert same(state(net), before), "only learning moves what it keeps"
    metrics = net.learn(loss.learn)
    assert all(v.isfinite() for v in metrics.values()) and "slot_perplexity" in metrics


def test_no_token_is_constant() -> None:
    """A released tokenizer of vectors took the sign of a sigmoid: every bit of every code was 1."""
    for net in (tokenizer(), tokenizer("lfq")):
        for trained in (False, True):
            if trained:
                train(net, 30)
            tokens = net.encode(vectors(99, 50)).flatten(0, 1)
            assert all(len(slot.unique()) > 3 for slot in tokens.unbind(-1))
            assert len(tokens.unique(dim=0)) > 30


def test_vectors_start_with_a_spread_of_one() -> None:
    for layers in (0, 1, 3):
        quantizer = small_quantizer("fsq", tokens=TOKENS)
        net = VectorMlp(
            size=DIMS, quantizer=quantizer, tokens=TOKENS, hidden=256, layers=layers, decay=0.99
        )
        net.fit(vectors(0, 100).flatten(0, 1))
        z, _ = net._quantized(net._scaled(vectors(1, 200)))
        assert 0.7 < float(z.detach().square().mean().sqrt()) < 1.3


def test_it_learns_to_tell_vectors_apart() -> None:
    net, x = tokenizer(), vectors(0, 8, 1)
    losses = train(net, 300, x)
    assert losses[-1] < 0.1 * max(losses[:5])
    assert len(net.encode(x).flatten(0, 1).unique(dim=0)) == 8
    error = symlog(net.decode(net.encode(x))) - symlog(x)
    assert (error.square().mean((0, 1)) < 0.3 * symlog(x).var((0, 1))).all(), "small ones as well"


def test_every_token_and_every_number_matters() -> None:
    net = tokenizer()
    train(net, 50)
    tokens = net.encode(vectors())
    shown = net.decode(tokens)
    for k in range(TOKENS):
        other = tokens.clone()
        other[..., k] = (other[..., k] + 1) % net.vocab
        assert (net.decode(other) != shown).any(-1).all()
    x = vectors().requires_grad_()
    z, _ = net._quantized(net._scaled(x))
    z.square().sum().backward()
    assert x.grad is not None and (x.grad != 0).any(0).any(0).all()


def test_padding_has_no_say() -> None:
    x, which = vectors(), counted()
    other = torch.where(which[..., None], x, vectors(5))
    results = []
    for variant in (x, other):
        torch.manual_seed(0)
        net = tokenizer()
        loss = net.loss(variant, which)
        results.append((loss.total, loss.parts, net.learn(loss.learn), state(net)))
    torch.testing.assert_close(results[0], results[1])
    nothing = state(net)
    net.learn(net.loss(x, torch.zeros_like(which)).learn)
    assert same(state(net), nothing)


def test_errors_are_in_the_units_of_the_environment() -> None:
    net, x, which = tokenizer(), vectors(), counted()
    train(net, 3)
    parts, error = net.loss(x, which).parts, (net.decode(net.encode(x)) - x)[which]
    torch.testing.assert_close(parts["l1"], error.abs().mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts["worst"], error.square().amax(-1).mean(), atol=1e-4, rtol=1e-3)


def test_slices_of_a_batch_cost_what_the_whole_does() -> None:
    net, x, which = tokenizer(), vectors(), counted()
    whole = gradients(net, net.loss(x, which).total)
    sums = {name: torch.zeros_like(g) for name, g in whole.items()}
    for rows in (slice(0, 3), slice(3, 8)):
        share = which[rows].sum() / which.sum()
        for name, g in gradients(net, net.loss(x[rows], which[rows]).total).items():
            sums[name] += g * share
    torch.testing.assert_close(sums, whole, atol=1e-5, rtol=1e-4)


def test_numbers_that_are_none_are_refused_and_huge_ones_are_not() -> None:
    net = tokenizer()
    with pytest.raises(RuntimeError, match="not a number"):
        net.encode(vectors() * torch.nan)
    with pytest.raises(ValueError, match="finite"):
        net.fit(vectors()[0] / 0)
    for x in (vectors() * 1e30, vectors() * 1e-30, vectors() * 0):
        loss = net.loss(x, counted())
        assert loss.total.isfinite() and net.decode(net.encode(x)).isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net.encode(vectors())
    assert torch.equal(half, net.encode(vectors()))


def test_nothing_waits_for_the_host() -> None:
    net, x, which = tokenizer(), vectors(), counted()
    with no_waiting():
        loss = net.loss(x, which)
        loss.total.backward()
        net.learn(loss.learn)
        net.decode(net.encode(x))


def test_a_saved_one_goes_on_bit_for_bit(tmp_path: Path) -> None:
    one, other = tokenizer(), tokenizer()
    train(one, 3)
    save(tmp_path / "saved", {"model": one.state_dict()})
    other.load_state_dict(load(tmp_path / "saved")["model"])
    assert train(one, 3) == train(other, 3) and same(state(one), state(other))


def test_the_scale_is_that_of_all_that_was_seen() -> None:
    scale, parts = RunningScale(size=DIMS, decay=0.999), []
    for seed in range(20):
        x, weight = vectors(seed).flatten(0, 1) + seed, counted(seed).flatten()
        scale.update(x, weight)
        parts.append(x[weight])
    # Updates count evenly here, not vectors.
    mean = torch.stack([x.mean(0) for x in parts]).mean(0)
    square = torch.stack([x.square().mean(0) for x in parts]).mean(0)
    torch.testing.assert_close(scale.mean, mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scale.variance, square - mean.square(), atol=1e-2, rtol=1e-3)
    x = vectors(50)
    torch.testing.assert_close(scale.inverse(scale(x)), x, atol=1e-3, rtol=1e-3)


def test_the_scale_forgets_and_stands_constants() -> None:
    scale, ones = RunningScale(size=2, decay=0.9), torch.ones(10)
    assert torch.equal(scale(torch.tensor([3.0, -2.0])), torch.tensor([3.0, -2.0]))
    for step in range(200):
        scale.update(torch.tensor([0.0 if step < 100 else 5.0, 1e4]).expand(10, 2), ones)
    torch.testing.assert_close(scale.mean, torch.tensor([5.0, 1e4]), atol=1e-3, rtol=1e-5)
    assert scale(torch.tensor([5.0, 1e4 + 1])).abs().max() <= 1.1 / LEAST
    before = state(scale)
    scale.update(torch.ones(10, 2), ones * 0)
    assert same(state(scale), before)


def test_warm_up_sets_the_scale_at_once() -> None:
    net, x = tokenizer(), vectors(0, 100).flatten(0, 1)
    net.fit(x)
    scaled = net._scaled(x)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(DIMS), atol=1e-4, rtol=0)
    small = symlog(x).std(0) < LEAST
    assert (scaled.std(0)[~small] - 1).abs().max() < 1e-2
    torch.testing.assert_close(symexp(net.scale.inverse(scaled)), x, atol=1e-3, rtol=1e-3)
