"""Codes that learn by gradient: a codebook, and one map of frozen codes."""

from __future__ import annotations

from typing import Any

import torch

from runners.phases import Phase
from runners.settings.quantizers import QUANTIZERS
from tests.nets import small_agent
from tests.quantizers import SIZE, codebook, small_quantizer, state, vectors
from tests.runs import HARDWARE


def losses(q: Any) -> tuple[Any, Any]:
    """What a batch of vectors gives, and the vectors."""
    z = vectors(q, 12).requires_grad_()
    return q(z), z


def test_the_defaults_are_those_of_iris() -> None:
    settings = QUANTIZERS["vq_grad"].model_validate({}).model_dump()
    numbers = (settings["size"], settings["dim"], settings["codebook_weight"])
    assert numbers == (512, 512, 1.0) and settings["commitment"] == 1.0
    q = small_quantizer("vq_grad", size=64)
    assert 0.9 / 64 < q.codebook.abs().max() <= 1 / 64


def test_only_used_codes_get_a_gradient_and_it_is_that_of_the_formula() -> None:
    q = small_quantizer("vq_grad", codebook_weight=0.7)
    out, z = losses(q)
    out.loss.mean().backward()
    z, codes = z.detach().flatten(0, 1), out.codes.flatten()
    for k in range(SIZE):
        mine = z[codes == k]
        expected = torch.zeros(q.dim)
        if len(mine):
            expected = 2 * len(mine) * (q.codebook[k] - mine.mean(0)).detach() * 0.7 / z.numel()
            assert q.codebook.grad[k].any()
        torch.testing.assert_close(q.codebook.grad[k], expected, atol=1e-8, rtol=1e-4)
    assert len(codes.unique()) < SIZE


def test_reconstruction_teaches_the_encoder_and_no_code() -> None:
    for kind in ("vq_grad", "simvq"):
        for gradient in ("straight_through", "rotation"):
            q = small_quantizer(kind, gradient=gradient)
            out, z = losses(q)
            out.z.square().sum().backward()
            assert z.grad.any() and all(p.grad is None for p in q.parameters())


def test_losses_without_weight_move_nothing() -> None:
    for kind in ("vq_grad", "simvq"):
        q = small_quantizer(kind, codebook_weight=0.0, commitment=0.0)
        out, z = losses(q)
        out.loss.sum().backward()
        assert not out.loss.any() and not z.grad.any()
        assert not any(p.grad.any() for p in q.parameters())


def test_no_decay_moves_codes_that_nobody_uses() -> None:
    for kind, name in (("vq_grad", "codebook"), ("simvq", "weight")):
        agent = small_agent(f"agent.tokenizer.quantizer.kind={kind}")
        learner = agent.learners()[0]
        numbers: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.5, "clip": 10.0, "after_epoch": 0}
        once = {"batch": 2, "frames": 3, "updates": 1, "first_updates": 1}
        phase = Phase(learner, HARDWARE, **once, **numbers)
        mine = learner.module.get_parameter(f"quantizer.{name}")
        groups = phase.optimizer.param_groups
        decays = [g["weight_decay"] for g in groups if any(p is mine for p in g["params"])]
        assert decays == [0.0]


def test_every_code_of_simvq_moves_at_once_and_the_frozen_ones_never() -> None:
    q = small_quantizer("simvq", size=24)
    optimizer = torch.optim.AdamW(q.parameters(), lr=0.01)
    before, frozen = codebook(q), q.frozen.clone()
    out, _ = losses(q)
    out.loss.mean().backward()
    optimizer.step()
    assert len(out.codes.unique()) < 24
    assert (codebook(q) != before).any(1).sum() == 24
    assert torch.equal(q.frozen, frozen) and not q.frozen.requires_grad


def test_codes_of_simvq_follow_the_weights_that_are_loaded() -> None:
    one, other = small_quantizer("simvq"), small_quantizer("simvq").eval()
    assert not torch.allclose(codebook(one), codebook(other), atol=1e-3)
    other(vectors(other))
    other.load_state_dict(state(one))
    assert torch.equal(codebook(other), codebook(one))
    z = vectors(one)
    assert torch.equal(other(z).z, one(z).z)
    product = (one.frozen.double() @ one.weight.double()).float()
    torch.testing.assert_close(codebook(one), product.detach(), atol=0, rtol=0)


def test_frozen_codes_start_near_the_unit_sphere() -> None:
    q = small_quantizer("simvq", size=2000, dim=64)
    assert abs(q.frozen.std() * 8 - 1) < 0.02
