"""What may go into a quantizer: any axes before the vectors, vectors of no length, any batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.quantizers import AVERAGED, SIZE, ones, same, small_quantizer, state, vectors
from worldmodels.quantizers import QUANTIZERS

KINDS = list(QUANTIZERS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_axis_holds_the_vectors_however_long_the_others_are(kind: str) -> None:
    side = small_quantizer(kind).dim
    q = small_quantizer(kind, tokens=side)
    z = torch.randn(side, side, side, side)
    out, rows = q(z), z.flatten(0, -2)
    # Each vector by itself, at all positions of a frame.
    alone = q(rows[:, None].expand(-1, side, -1))
    here = torch.arange(len(rows)), torch.arange(len(rows)) % side
    assert torch.equal(out.codes.flatten(), alone.codes[here])
    torch.testing.assert_close(out.z.flatten(0, -2), alone.z[here], atol=1e-6, rtol=0)
    torch.testing.assert_close(out.loss.flatten(), alone.loss[here], atol=1e-6, rtol=1e-5)
    assert torch.equal(q.embed(out.codes).flatten(0, -2), q.embed(out.codes.flatten()))


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_takes_frames_behind_any_axes(kind: str) -> None:
    q = small_quantizer(kind)
    z = vectors(q, 24)
    weight = (torch.rand(24, 4) < 0.7).float()
    codes, before, rng, after = q(z).codes, state(q), torch.get_rng_state(), []
    for shape in ((24,), (2, 3, 4), (4, 6)):
        q.load_state_dict(before)
        torch.set_rng_state(rng)
        split = (x.unflatten(0, shape) for x in (z, codes, weight))
        after.append(q.update(*split) | state(q))
    assert same(after[0], after[1]) and same(after[0], after[2])


@pytest.mark.parametrize("kind", ["vq_ema", "bsq"])
def test_a_vector_without_direction_has_the_first_code_and_moves_nothing(kind: str) -> None:
    q = small_quantizer(kind)
    z = torch.zeros(30, 4, q.dim, requires_grad=True)
    out = q(z)
    assert not out.codes.any() and out.z.isfinite().all() and out.loss.isfinite().all()
    (grad,) = torch.autograd.grad(out.z.sum() + out.loss.sum(), z)
    assert grad.isfinite().all()
    if kind == "vq_ema":
        q.revive_updates, before = 0, q.codebook.clone()
        q.update(z.detach(), out.codes, ones(out.codes))
        torch.testing.assert_close(q.codebook, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", AVERAGED)
@pytest.mark.parametrize("times", [1, 9])
def test_which_codes_are_dead_is_no_matter_of_how_large_a_batch_is(kind: str, times: int) -> None:
    q = small_quantizer(kind, tokens=1, revive_updates=0, revive_below=0.0)
    # Of 32 codes 4 are used much, 4 a third of evenly and 4 a thirteenth; nobody uses the others.
    often = [100] * 4 + [4] * 4 + [1] * 4 + [0] * 20
    codes = torch.arange(SIZE).repeat_interleave(torch.tensor(often)).repeat(times)[:, None]
    for step in range(70):
        if step == 69:
            q.revive_updates = 1000
        z = torch.randn(len(codes), 1, q.dim)
        metrics = q.update(z, codes, ones(codes))
    placed = F.normalize(z, dim=-1) if kind == "vq_ema" else z
    moved = (q.codebook[:, None] == placed[:, 0]).all(-1).any(1)
    assert torch.equal(moved, torch.tensor(often) < 4) and metrics["codes_revived"] == 24
