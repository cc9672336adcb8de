"""The quantizer and its codebook."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runners.settings.load import load
from tests.nets import no_waiting
from worldmodels.quantizers.vq_ema import VQEma

SIZE, DIM = 32, 6


def quantizer(**changed: Any) -> VQEma:
    published = load(["env=crafter"]).config.agent.tokenizer.model_dump()["quantizer"]
    assert published.pop("kind") == "vq_ema"
    ours = {"size": SIZE, "dim": DIM, "revive_updates": 0, "revive_below": 0.0}
    return VQEma(tokens=1, **{**published, **ours, **changed})


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def update(q: VQEma, z: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
    weight = torch.ones(len(z)) if weight is None else weight
    return q.update(z, q(z).codes, weight)


def test_codes_start_on_the_sphere_and_are_no_parameters() -> None:
    q = quantizer()
    torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(SIZE))
    assert list(q.parameters()) == []
    assert {"codebook", "usage.share", "updates"} <= set(q.state_dict())
    assert torch.equal(q.usage.share, torch.full((SIZE,), 1 / SIZE))


def test_a_vector_gets_the_code_of_the_smallest_angle() -> None:
    q, z = quantizer(), torch.randn(4, 7, DIM) * 5
    out = q(z)
    cosine = F.cosine_similarity(z[..., None, :], q.codebook, dim=-1)
    assert torch.equal(out.codes, cosine.argmax(-1)) and out.codes.shape == (4, 7)
    torch.testing.assert_close(out.z, q.codebook[out.codes])
    assert torch.equal(q.embed(out.codes), q.codebook[out.codes])
    expected = 0.02 * (2 - 2 * cosine.amax(-1)) / DIM
    torch.testing.assert_close(out.loss, expected, atol=1e-6, rtol=1e-4)


def test_gradient_goes_straight_to_the_normalised_vector() -> None:
    q, z = quantizer(commitment=0.0), torch.randn(9, DIM, requires_grad=True)
    towards = torch.randn(9, DIM)
    (ours,) = torch.autograd.grad((q(z).z * towards).sum(), z)
    (theirs,) = torch.autograd.grad((F.normalize(z, dim=-1) * towards).sum(), z)
    torch.testing.assert_close(ours, theirs)
    assert not q.codebook.requires_grad


def test_commitment_pulls_the_vector_to_its_code() -> None:
    q, z = quantizer(), torch.randn(9, DIM, requires_grad=True)
    (grad,) = torch.autograd.grad(q(z).loss.sum(), z)
    before, after = q(z), q(z - 50 * grad)
    moved = after.codes == before.codes
    assert moved.any() and (after.loss < before.loss)[moved].all()


def test_autocast_changes_nothing() -> None:
    q, z = quantizer(), torch.randn(500, DIM)
    outside = q(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = q(z)
    assert inside.z.dtype == inside.loss.dtype == torch.float32
    for name in ("z", "codes", "loss"):
        assert torch.equal(getattr(inside, name), getattr(outside, name)), name


def test_the_forward_pass_and_evaluation_change_no_state() -> None:
    q = quantizer(revive_updates=10)
    before = {k: v.clone() for k, v in q.state_dict().items()}
    q(torch.randn(50, DIM))
    assert all(torch.equal(v, before[k]) for k, v in q.state_dict().items())


def test_an_update_moves_each_used_code_towards_its_mean_and_no_other() -> None:
    q, z = quantizer(), torch.randn(20, DIM) * torch.rand(20, 1) * 10
    old, codes = q.codebook.clone(), q(z).codes
    metrics = update(q, z)
    for k in range(SIZE):
        expected = old[k]
        if (codes == k).any():
            mean = F.normalize(F.normalize(z[codes == k], dim=-1).mean(0), dim=-1)
            expected = F.normalize(0.99 * old[k] + 0.01 * mean, dim=-1)
        torch.testing.assert_close(q.codebook[k], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(SIZE))
    frequency = codes.bincount(minlength=SIZE) / 20
    torch.testing.assert_close(q.usage.share, 0.98 / SIZE + 0.02 * frequency)
    assert q.updates == 1
    assert metrics["code_usage"] == pytest.approx((frequency > 0).float().mean().item())
    bits = -torch.xlogy(q.usage.share, q.usage.share).sum().item() / math.log(2)
    assert metrics["usage_entropy"] == pytest.approx(bits, abs=1e-4)
    nats = -torch.xlogy(frequency, frequency).sum().item()
    assert metrics["perplexity"] == pytest.approx(math.exp(nats), rel=1e-4)


def test_codes_stay_on_the_sphere_and_unused_ones_to_the_last_bit_where_they_are() -> None:
    q = quantizer(decay=0.9)
    begun = q.codebook.clone()
    for step in range(1000):
        z = torch.randn(20, DIM) + torch.randn(DIM)
        q.update(z, torch.arange(20), torch.ones(20))
        if step == 9:
            # The first norms are an ulp off 1; then normalising changes nothing any more.
            settled = q.codebook[20:].clone()
    torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(SIZE), atol=1e-6, rtol=0)
    torch.testing.assert_close(settled, begun[20:], atol=1e-6, rtol=0)
    assert torch.equal(q.codebook[20:], settled)
    assert (q.codebook[:20] - begun[:20]).norm(dim=-1).min() > 0.1


def test_the_codebook_follows_vectors_in_the_end() -> None:
    q, z = quantizer(), unit(1, DIM)
    far = q(z).codes
    for _ in range(1200):
        update(q, z)
    torch.testing.assert_close(q.codebook[far], z, atol=1e-3, rtol=0)


def test_padding_moves_nothing() -> None:
    ours, theirs = quantizer(), quantizer()
    theirs.load_state_dict(ours.state_dict())
    z, noise = torch.randn(12, DIM), torch.randn(30, DIM) * 100
    weight = torch.cat((torch.zeros(30), torch.ones(12)))
    got, expected = update(ours, torch.cat((noise, z)), weight), update(theirs, z)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-7, rtol=1e-6)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])


def test_a_batch_of_padding_changes_nothing() -> None:
    q = quantizer(revive_updates=10)
    q.usage.share.copy_(torch.zeros(SIZE).index_fill_(0, torch.tensor([3]), 1.0))
    before = q.codebook.clone(), q.usage.share.clone()
    update(q, torch.randn(8, DIM), torch.zeros(8))
    torch.testing.assert_close((q.codebook, q.usage.share), before)


def revived(q: VQEma, z: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    """Which codes now equal a vector, and how many the update said."""
    told = update(q, z, weight)["codes_revived"]
    equal = (q.codebook[:, None] - F.normalize(z, dim=-1)).abs().amax(-1) < 1e-6
    return equal, int(told)


def collapsed(dead: int, **changed: Any) -> tuple[VQEma, Tensor]:
    """A quantizer of which `dead` codes are not used; the others evenly."""
    q = quantizer(**changed)
    alone = torch.arange(SIZE) >= dead
    q.usage.share.copy_(alone / alone.sum())
    return q, ~alone


@pytest.mark.parametrize(("vectors", "padding"), [(9, 0), (9, 40), (100, 0), (100, 20)])
def test_dead_codes_move_onto_distinct_real_vectors(vectors: int, padding: int) -> None:
    q, dead = collapsed(28, revive_updates=1)
    weight = torch.cat((torch.zeros(padding), torch.ones(vectors)))
    z = torch.randn(padding + vectors, DIM)
    # Nobody chooses the dead: all vectors point where the living are.
    z = q.codebook[28:][torch.arange(len(z)) % 4] + 0.01 * z
    equal, told = revived(q, z, weight)
    assert told == min(28, vectors) == int(equal.any(1).sum())
    assert equal[dead].any(1).sum() == told, "only dead codes move"
    assert equal.sum(0).max() == 1, "no vector serves twice"
    assert not equal[:, weight == 0].any(), "padding is never chosen"
    assert q.usage.share.sum() == pytest.approx(1, abs=1e-6)
    ratio = q.usage.share[equal.any(1)]
    torch.testing.assert_close(ratio, ratio[:1].expand(told))
    torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(SIZE))


def test_which_codes_and_vectors_revive_is_random() -> None:
    found: set[tuple[int, ...]] = set()
    for _ in range(5):
        q, _ = collapsed(28, revive_updates=1)
        z = q.codebook[28:][torch.arange(3)] + 0.01 * torch.randn(3, DIM)
        found.add(tuple(revived(q, z, torch.ones(3))[0].any(1).nonzero().flatten().tolist()))
    assert len(found) > 1


@pytest.mark.parametrize(
    ("dead", "updates", "limit", "below", "expected"),
    [
        (28, 0, 1, 0.0, True),
        (28, 1, 1, 0.0, False),  # too late
        (28, 1, 1, 1.0, False),  # entropy of 4 codes is 2 bits
        (31, 1, 1, 1.0, True),  # collapsed below one bit
        (31, 0, 0, 0.0, False),
        (20, 0, 9, 5.0, False),  # 12 codes: more than log2(32) - 2 = 3 bits
    ],
)
def test_revival_is_allowed_early_or_after_a_collapse(
    dead: int, updates: int, limit: int, below: float, expected: bool
) -> None:
    q, _ = collapsed(dead, revive_updates=limit, revive_below=below)
    q.updates.fill_(updates)
    z = q.codebook[dead:][torch.arange(64) % (SIZE - dead)] + 0.01 * torch.randn(64, DIM)
    _, told = revived(q, z, torch.ones(64))
    assert told == (dead if expected else 0)


def test_codes_used_a_tenth_of_evenly_are_not_dead() -> None:
    q, _ = collapsed(31, revive_updates=1, usage_decay=1.0)
    q.usage.share[:5], q.usage.share[5:10] = 0.11 / SIZE, 0.09 / SIZE
    z = q.codebook[31:] + 0.01 * torch.randn(64, DIM)
    equal, told = revived(q, z, torch.ones(64))
    assert told == 26 and not equal[:5].any()


def test_nothing_waits_for_the_host() -> None:
    q, z = quantizer(revive_updates=5), torch.randn(40, DIM)
    with no_waiting():
        codes = q(z).codes
        q.update(z, codes, torch.ones(40))
