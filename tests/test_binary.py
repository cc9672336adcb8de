"""Sign codes and their entropy terms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.quantizers import BINARY, codebook, small_quantizer, vectors

BITS = 4


def quantizer(kind: str, tokens: int = 1, **changed: Any) -> Any:
    """Of 4 bits, with the entropy terms alone at weight 1."""
    alone = {"bits": BITS, "commitment": 0.0, "entropy_weight": 1.0, "temperature": 0.7}
    return small_quantizer(kind, tokens, **{**alone, **changed})


def soft(q: Any, z: Tensor) -> Tensor:
    """(N,2^bits): the softmax over all codes that the papers define."""
    placed = z / z.norm(dim=-1, keepdim=True) if q.scale != 1 else z
    return (2 * placed @ codebook(q).T / q.temperature).softmax(-1)


def entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def given(q: Any, mean: Tensor) -> Any:
    """The quantizer, told the mean probabilities."""
    q.mean.copy_(mean)
    return q


@pytest.mark.parametrize("kind", BINARY)
def test_all_codes_in_binary_order_the_first_number_highest(kind: str) -> None:
    q = quantizer(kind)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=BITS)))
    torch.testing.assert_close(codebook(q), signs * (1 if kind == "lfq" else BITS**-0.5))
    assert torch.equal(q(3 * signs).codes, torch.arange(2**BITS))
    assert q(torch.tensor([[1.0, -1.0, -1.0, 1.0]])).codes.item() == 0b1001


@pytest.mark.parametrize("kind", BINARY)
def test_zero_is_negative(kind: str) -> None:
    q = quantizer(kind)
    for zero in (0.0, -0.0):
        assert q(torch.tensor([[zero, 2.0, zero, 1.0]])).codes.item() == 0b0101
    assert q(torch.zeros(1, BITS)).codes.item() == 0


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("form", ["exact", "factorised"])
def test_the_entropy_of_a_vector_two_ways(kind: str, form: str) -> None:
    q = quantizer(kind, gamma=0.0, entropy=form)
    z = torch.randn(40, BITS)
    torch.testing.assert_close(q(z).loss, entropy(soft(q, z)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("form", ["exact", "factorised"])
def test_the_mean_term_is_the_entropy_of_the_batch_when_the_mean_is_its(
    kind: str, form: str
) -> None:
    q = quantizer(kind, entropy=form)
    z = torch.randn(40, BITS, requires_grad=True)

    def of_batch() -> Tensor:
        p = soft(q, z)
        if form == "exact":
            return entropy(p.mean(0))
        bits = p.mean(0) @ (codebook(q) > 0).float()
        return (entropy(torch.stack((bits, 1 - bits), -1))).sum()

    expected = entropy(soft(q, z)).mean() - of_batch()
    ps = soft(q, z).detach()
    given(q, ps.mean(0) if form == "exact" else (ps @ (codebook(q) > 0).float()).mean(0))
    found = q(z).loss.mean()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(x, z)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", BINARY)
def test_bits_by_themselves_bound_the_entropy_of_codes_from_above(kind: str) -> None:
    z = torch.randn(200, BITS)
    z[:, 1] = z[:, 0]
    terms = {}
    for form in ("exact", "factorised"):
        q = quantizer(kind, entropy=form, mean_decay=0.0)
        codes = q(z).codes
        terms[form] = q.update(z, codes, torch.ones(200))["soft_entropy"].item()
    assert terms["exact"] < terms["factorised"] - 0.02 < BITS * math.log(2)


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("form", ["exact", "factorised"])
def test_the_mean_is_a_moving_one_by_position_without_padding(kind: str, form: str) -> None:
    q = quantizer(kind, tokens=3, entropy=form, mean_decay=0.75)
    z, weight = torch.randn(30, 3, BITS), torch.ones(30, 3)
    weight[20:] = 0
    before = q.mean.clone()
    p = soft(q, z[:20])
    p = p if form == "exact" else p @ (codebook(q) > 0).float()
    q.update(z, q(z).codes, weight)
    torch.testing.assert_close(q.mean, p.mean(0))
    q.updates.fill_(10)
    q.mean.copy_(before)
    q.update(z, q(z).codes, weight)
    torch.testing.assert_close(q.mean, 0.75 * before + 0.25 * p.mean(0))


@pytest.mark.parametrize("kind", BINARY)
def test_positions_that_repeat_themselves_pay_although_together_they_are_even(kind: str) -> None:
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=BITS)))
    z = 2 * signs.expand(30, 16, BITS)
    one, each = quantizer(kind, tokens=1), quantizer(kind, tokens=16)
    for q, shape in ((one, z.reshape(-1, 1, BITS)), (each, z)):
        for _ in range(60):
            q.update(shape, q(shape).codes, torch.ones(shape.shape[:-1]))
    assert each(z).loss.mean() > one(z.reshape(-1, 1, BITS)).loss.mean() + 0.5


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("form", ["exact", "factorised"])
def test_an_update_in_slices_is_an_update_in_one_piece(kind: str, form: str) -> None:
    q = quantizer(kind, tokens=4, entropy=form)
    for step in range(5):
        z = vectors(q, seed=step)
        q.update(z, q(z).codes, torch.ones(50, 4))
    z, weight = vectors(q, seed=9).requires_grad_(), torch.ones(50, 4)
    weight[45:] = 0
    (whole,) = torch.autograd.grad((q(z).loss * weight).sum() / weight.sum(), z)
    total = torch.zeros(())
    for first, stop in ((0, 1), (1, 30), (30, 50)):
        part, w = q(z[first:stop]).loss, weight[first:stop]
        total = total + (part * w).sum() / w.sum() * (w.sum() / weight.sum())
    (sliced,) = torch.autograd.grad(total, z)
    torch.testing.assert_close(sliced, whole, atol=1e-8, rtol=1e-5)
    assert not sliced[45:].any() and sliced[:45].any()


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("form", ["exact", "factorised"])
def test_the_entropy_term_spreads_codes(kind: str, form: str) -> None:
    q = quantizer(kind, entropy=form, temperature=1.0)
    z = torch.nn.Parameter(0.3 * torch.ones(256, BITS) + 0.2 * torch.randn(256, BITS))
    optimizer = torch.optim.Adam([z], lr=0.01)
    perplexity = []
    for _ in range(150):
        out = q(z)
        optimizer.zero_grad()
        out.loss.mean().backward()
        optimizer.step()
        perplexity.append(q.update(z.detach(), out.codes, torch.ones(256))["perplexity"])
    # 16 at best; the entropy of each batch by itself came to 14 or 15.
    assert perplexity[0] < 4 and perplexity[-1] > 12


def test_codes_on_the_sphere_are_near_and_of_length_one() -> None:
    q = small_quantizer("bsq", 1, bits=9)
    worst = torch.eye(9)
    z = torch.cat((torch.randn(1000, 9), worst, -worst, torch.full((1, 9), 1e-3)))
    code = q.embed(q(z).codes)
    torch.testing.assert_close(code.norm(dim=-1), torch.ones(len(z)), atol=1e-6, rtol=0)
    error = (z / z.norm(dim=-1, keepdim=True) - code).norm(dim=-1)
    assert error.max() < math.sqrt(2)


@pytest.mark.parametrize("kind", BINARY)
def test_sure_bits_have_finite_entropies_and_gradients(kind: str) -> None:
    q = quantizer(kind, temperature=0.01)
    z = (torch.tensor([1e-30, 1e-3, 1.0, 1e5, 1e15])[:, None] * torch.randn(5, BITS)).clone()
    z.requires_grad_()
    loss = q(z).loss
    loss.sum().backward()
    assert loss.isfinite().all() and z.grad is not None and z.grad.isfinite().all()
