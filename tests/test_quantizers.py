"""What holds for every quantizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from runners.settings.quantizers import QUANTIZERS as SETTINGS
from tests.nets import no_waiting
from tests.quantizers import (
    AVERAGED,
    CODEBOOKS,
    EUCLIDEAN,
    SPHERE,
    codebook,
    ones,
    same,
    small_quantizer,
    state,
    train,
    vectors,
)
from worldmodels.quantizers import QUANTIZERS
from worldmodels.quantizers.gradients import GRADIENTS

KINDS = list(QUANTIZERS)


def test_every_kind_has_settings() -> None:
    assert SETTINGS.keys() == QUANTIZERS.keys()


@pytest.mark.parametrize("kind", EUCLIDEAN)
def test_the_code_is_the_nearest(kind: str) -> None:
    q = small_quantizer(kind)
    book, z = codebook(q), vectors(q)
    for vector, code in zip(z.flatten(0, 1), q(z).codes.flatten(), strict=True):
        distances = [float((vector - row).square().sum()) for row in book]
        assert int(code) == distances.index(min(distances))


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_of_codes_that_are_equally_near_the_lowest_is_chosen(kind: str) -> None:
    # Of whole numbers along axes no distance is rounded, in whatever order sums are taken.
    q = small_quantizer(kind, size=29)
    axes = torch.cat((torch.eye(q.dim), -torch.eye(q.dim))).repeat(3, 1)[:29]
    (q.frozen if kind == "simvq" else q.codebook.data).copy_(axes)
    if kind == "simvq":
        nn.init.eye_(q.weight)
    assert torch.equal(codebook(q), axes)
    z = torch.randint(-3, 4, (200, 1, q.dim)).float()
    z[0] = 0
    for vector, code in zip(z[:, 0].tolist(), q(z).codes[:, 0].tolist(), strict=True):
        along = vector + [-x for x in vector]
        assert code == along.index(max(along))


@pytest.mark.parametrize("kind", ["lfq", *SPHERE])
def test_the_code_is_that_of_the_smallest_angle(kind: str) -> None:
    q = small_quantizer(kind)
    z = vectors(q)
    angle = F.cosine_similarity(z[..., None, :], codebook(q), dim=-1)
    assert torch.equal(q(z).codes, angle.argmax(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_the_code_of_its_own_vector(kind: str) -> None:
    q = small_quantizer(kind, tokens=1)
    book = codebook(q)
    assert len(book.unique(dim=0)) == q.size
    if kind == "fsq":  # the bound squeezes vectors; its inverse is tested with it
        return
    assert torch.equal(q(book[:, None]).codes[:, 0], torch.arange(q.size))


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_gives_the_same_codes_and_the_value_is_the_code(kind: str) -> None:
    q = small_quantizer(kind)
    out = q(vectors(q))
    torch.testing.assert_close(out.z, q.embed(out.codes), atol=1e-5, rtol=0)
    q.eval()
    assert torch.equal(q(vectors(q)).codes, out.codes) and out.codes.dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_value_is_that_of_its_estimator(kind: str) -> None:
    q = small_quantizer(kind, tokens=1)
    z = vectors(q, 1)[0]
    found = jacobian(lambda x: q(x).z, z)[0, :, 0]
    if kind in ["lfq", *EUCLIDEAN]:
        expected = torch.eye(q.dim)
    elif kind == "fsq":
        levels = torch.tensor([4.0, 3, 3])
        half = (levels - 1) * 1.001 / 2
        shift = torch.tensor([0.5, 0, 0]) / half
        slope = half * (1 - (z[0] + shift.atanh()).tanh().square())
        expected = torch.diag(slope / (levels // 2))
    else:
        expected = jacobian(lambda x: F.normalize(x, dim=-1), z)[0, :, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_rotation_is_a_word_away(kind: str) -> None:
    q, plain = small_quantizer(kind, gradient="rotation"), small_quantizer(kind)
    plain.load_state_dict(q.state_dict())
    z, towards = vectors(q).requires_grad_(), torch.randn(50, 4, q.dim)
    unit = F.normalize(z, dim=-1) if kind == "vq_ema" else z
    turned = GRADIENTS["rotation"](unit, plain(z).z.detach())
    (expected,) = torch.autograd.grad((turned * towards).sum(), z)
    out = q(z)
    (found,) = torch.autograd.grad((out.z * towards).sum(), z)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert torch.equal(out.codes, plain(z).codes) and torch.equal(out.z, q.embed(out.codes))
    assert torch.equal(out.loss, plain(z).loss)


@pytest.mark.parametrize("kind", KINDS)
def test_commitment_has_the_gradient_of_its_formula(kind: str) -> None:
    if kind == "fsq":
        out = small_quantizer(kind)(vectors(small_quantizer(kind)))
        assert not out.loss.any() and out.parts == {}
        return
    q = small_quantizer(kind, commitment=0.3)
    z = vectors(q).requires_grad_()
    out, placed = q(z), F.normalize(z, dim=-1) if kind in SPHERE else z
    (found,) = torch.autograd.grad(out.parts["commit"].mean(), z)
    formula = 2 * 0.3 * (placed - q.embed(out.codes)).detach() / z.numel()
    (expected,) = torch.autograd.grad((placed * formula).sum(), z)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_a_vector_is_pulled_to_its_code_alone_and_what_comes_in_goes_through(kind: str) -> None:
    """The losses of codes do not reach vectors."""
    q = small_quantizer(kind, commitment=0.3)
    z = vectors(q).requires_grad_()
    out, placed = q(z), F.normalize(z, dim=-1) if kind == "vq_ema" else z
    towards = torch.randn(z.shape)
    whole = (out.z * towards).sum() + out.loss.mean()
    (found,) = torch.autograd.grad(whole, z, retain_graph=True)
    pull = 2 * 0.3 * (placed - q.embed(out.codes)).detach() / z.numel()
    (expected,) = torch.autograd.grad((placed * (towards + pull)).sum(), z)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert pull.abs().max() > 1e-4, "the pull is not lost in rounding"


@pytest.mark.parametrize("kind", SPHERE)
def test_the_size_of_a_vector_does_not_matter_on_the_sphere(kind: str) -> None:
    q = small_quantizer(kind)
    z = vectors(q)
    for scale in (1e-3, 0.5, 7.0, 1e4):
        assert torch.equal(q(scale * z).codes, q(z).codes)
    norms = codebook(q).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(q.size), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_bit(kind: str, dtype: torch.dtype) -> None:
    q = small_quantizer(kind)
    outside = q(vectors(q, 500))
    with torch.autocast("cpu", dtype=dtype):
        inside = q(vectors(q, 500))
        assert torch.equal(q.embed(inside.codes), q.embed(outside.codes))
    for name in ("z", "codes", "loss"):
        assert torch.equal(getattr(inside, name), getattr(outside, name)), name
    assert inside.z.dtype == inside.loss.dtype == q.embed(inside.codes).dtype == torch.float32
    half = q(vectors(q).to(dtype))
    assert half.z.dtype == torch.float32
    assert torch.equal(half.codes, q(vectors(q).to(dtype).float()).codes)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_host(kind: str) -> None:
    q = small_quantizer(kind)
    z, weight = vectors(q).requires_grad_(), torch.ones(50, 4)
    with no_waiting():
        out = q(z)
        (out.z.sum() + out.loss.sum()).backward()
        q.update(z.detach(), out.codes, weight)
        q.embed(out.codes)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_pass_and_update_compile_to_one_graph_each(kind: str) -> None:
    rotating: dict[str, Any] = {"gradient": "rotation"} if kind in CODEBOOKS else {}
    q = small_quantizer(kind, **rotating)
    train(q, None, range(3))
    if kind in AVERAGED:
        # Dead are all codes but one, and all that the update does not hit.
        q.usage.share.copy_(F.one_hot(torch.tensor(0), q.size))
    if kind == "vq_euclid":
        q.hits.zero_()
    towards, grads, outs = torch.randn(50, 4, q.dim), [], []
    torch.compiler.reset()
    for forward in (q, torch.compile(q, fullgraph=True, backend="aot_eager")):
        z = vectors(q).requires_grad_()
        out = forward(z)
        q.zero_grad(set_to_none=True)
        ((out.z * towards).sum() + out.loss.sum()).backward()
        grads.append([z.grad, *(p.grad.clone() for p in q.parameters())])
        outs.append((out.z, out.codes, out.loss))
    torch.testing.assert_close(outs[0], outs[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-5)
    before, rng, results = state(q), torch.get_rng_state(), []
    updates = (q.update, torch.compile(q.update, fullgraph=True, backend="aot_eager"))
    for update, (_, codes, _) in zip(updates, outs, strict=True):
        q.load_state_dict(before)
        torch.set_rng_state(rng)
        metrics = update(vectors(q)[:5], codes[:5], ones(codes[:5]))
        assert kind not in AVERAGED or metrics["codes_revived"] > 0
        results.append(state(q) | metrics)
    assert same(*results) and not same(state(q), before)
