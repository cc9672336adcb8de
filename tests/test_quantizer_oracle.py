"""The same inputs to vector-quantize-pytorch: the same codes and gradients, or why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize

from tests.quantizers import codebook, small_quantizer
from worldmodels.quantizers.gradients import RATIO

STEPS, COUNT, SIZE, DIM = 200, 256, 24, 6


def batches() -> list[Tensor]:
    """Vectors (COUNT,1,DIM) that drift."""
    rng = torch.Generator().manual_seed(3)
    return [
        torch.randn(COUNT, 1, DIM, generator=rng) * (1 + step / STEPS) + step / 100
        for step in range(STEPS)
    ]


def pulled(value: Tensor, loss: Tensor, z: Tensor, towards: Tensor) -> Tensor:
    """The gradient at z of a value pulled `towards`, and of a loss."""
    (grad,) = torch.autograd.grad((value * towards).sum() + loss.sum(), z)
    return grad


def comparable(gradient: str, z: Tensor, q: Tensor) -> Tensor:
    """(N,1) bool: all, but where |q|/|z| is out of the range that our rotation keeps it in."""
    ratio = q.detach().norm(dim=-1) / z.norm(dim=-1)
    inside = (ratio > RATIO[0]) & (ratio < RATIO[1]) | (gradient == "straight_through")
    assert inside.float().mean() > 0.5
    return inside


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_moving_averages(gradient: str) -> None:
    # It smooths counts by eps, which draws rare codes to the origin; ours does not, so eps is 0
    # here. It updates within its forward pass, after choosing codes: ours is told to. Its counts
    # start at 1 and ours at 0: they are copied.
    theirs = VectorQuantize(
        dim=DIM,
        codebook_size=SIZE,
        decay=0.9,
        eps=0.0,
        commitment_weight=0.3,
        rotation_trick=gradient == "rotation",
    )
    ours = small_quantizer(
        "vq_euclid",
        tokens=1,
        size=SIZE,
        dim=DIM,
        decay=0.9,
        commitment=0.3,
        revive_updates=0,
        revive_below=0.0,
        gradient=gradient,
    )
    inner: Any = theirs._codebook
    ours.codebook.copy_(inner.embed[0])
    ours.hits.copy_(inner.cluster_size[0])
    for step, z in enumerate(batches()):
        towards = torch.randn(COUNT, 1, DIM)
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        value, codes, loss = theirs(a)
        out = ours(b)
        ours.update(z, out.codes, torch.ones(COUNT, 1))
        assert torch.equal(out.codes, codes), step
        torch.testing.assert_close(out.z, value, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.loss.mean(), loss.mean(), atol=1e-5, rtol=1e-4)
        alike = comparable(gradient, z, out.z)
        found = pulled(out.z, out.loss.mean(), b, towards)[alike]
        expected = pulled(value, loss, a, towards)[alike]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(ours.codebook, inner.embed[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_one_learned_map(gradient: str) -> None:
    # Its weight `input_to_quantize` is that of our commitment.
    theirs = SimVQ(
        dim=DIM,
        codebook_size=SIZE,
        rotation_trick=gradient == "rotation",
        input_to_quantize_commit_loss_weight=0.25,
        commitment_weight=0.8,
    )
    ours = small_quantizer(
        "simvq",
        tokens=1,
        size=SIZE,
        dim=DIM,
        codebook_weight=0.8,
        commitment=0.8 * 0.25,
        gradient=gradient,
    )
    linear: Any = theirs.code_transform
    frozen: Any = theirs.frozen_codebook
    ours.frozen.copy_(frozen)
    ours.weight.data.copy_(linear.weight.T)
    optimizers = [torch.optim.Adam([p], lr=0.01) for p in (linear.weight, ours.weight)]
    for z in batches()[::10]:
        towards = torch.randn(COUNT, 1, DIM)
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        value, codes, loss = theirs(a)
        out = ours(b)
        assert torch.equal(out.codes, codes)
        torch.testing.assert_close(out.z, value, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out.loss.mean(), loss, atol=1e-6, rtol=1e-4)
        for optimizer in optimizers:
            optimizer.zero_grad()
        ((value * towards).sum() + loss).backward()
        ((out.z * towards).sum() + out.loss.mean()).backward()
        alike = comparable(gradient, z, out.z)
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(b.grad[alike], a.grad[alike], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(ours.weight.grad, linear.weight.grad.T, atol=1e-6, rtol=1e-3)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 6, 5), (7, 5)])
@pytest.mark.parametrize("form", ["published", "symmetric"])
def test_rounded_numbers(levels: tuple[int, ...], form: str) -> None:
    # Its codes are int32, which a cross-entropy refuses.
    theirs: Any = FSQ(list(levels), preserve_symmetry=form == "symmetric")
    ours = small_quantizer("fsq", tokens=1, levels=levels, form=form)
    z = 2 * torch.randn(2000, 1, len(levels))
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    value, codes = theirs(a)
    out = ours(b)
    assert torch.equal(out.codes, codes.long())
    torch.testing.assert_close(out.z, value, atol=1e-5, rtol=1e-5)
    towards = torch.randn_like(z)
    zero = torch.zeros(())
    found, expected = pulled(out.z, zero, b, towards), pulled(value, zero, a, towards)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codebook(ours), theirs.indices_to_codes(torch.arange(ours.size)))


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_signs(kind: str) -> None:
    # It takes the second entropy of the batch at hand; ours costs the same, and has the same
    # gradient, where the moving mean is the batch's. Its `inv_temperature` is 1 / temperature.
    bits, temperature = 5, 0.5
    theirs: Any = LFQ(
        codebook_size=2**bits,
        dim=bits,
        entropy_loss_weight=0.1,
        commitment_loss_weight=0.25,
        diversity_gamma=1.5,
        spherical=kind == "bsq",
    )
    ours = small_quantizer(
        kind,
        tokens=1,
        bits=bits,
        entropy="exact",
        entropy_weight=0.1,
        commitment=0.25,
        gamma=1.5,
        temperature=temperature,
        mean_decay=0.0,
    )
    theirs.train()
    z = torch.randn(400, 1, bits)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    value, codes, loss = theirs(a, inv_temperature=1 / temperature)
    ours.update(z, ours(b).codes, torch.ones(400, 1))
    out = ours(b)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.z, value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.loss.mean(), loss, atol=1e-5, rtol=1e-4)
    towards = torch.randn_like(z)
    found, expected = pulled(out.z, out.loss.mean(), b, towards), pulled(value, loss, a, towards)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codebook(ours), theirs.indices_to_codes(torch.arange(2**bits)))
