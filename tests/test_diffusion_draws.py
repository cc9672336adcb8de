"""Random numbers of rows, what is drawn from them, and guidance."""

from __future__ import annotations

import math

import pytest
import torch

from tests.denoisers import chi_square
from tests.nets import no_waiting
from tests.sampler_laws import sampler
from worldmodels.diffusion.draws import (
    RowStreams,
    categorical,
    entropy,
    gumbel,
    integers,
    log_probs,
    ranks,
    scramble,
    uniforms,
)
from worldmodels.diffusion.guidance import guide
from worldmodels.diffusion.sampling import Step


def test_scrambled_numbers_are_those_of_splitmix64() -> None:
    """The first outputs for the seed 1234567, as published with the generator's C code."""
    golden = 0x9E3779B97F4A7C15
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    wrapped = [(1234567 + i * golden) % 2**64 for i in (1, 2, 3)]
    signed = torch.tensor([word - 2**64 * (word >= 2**63) for word in wrapped])
    assert [word % 2**64 for word in scramble(signed).tolist()] == published


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_have_streams_of_their_own(dtype: torch.dtype) -> None:
    seeds = torch.tensor([3, 1, 4, 1, 5])
    shapes = [(5, 7), (5,), (5, 2, 3)]
    rand = RowStreams(seeds, dtype)
    drawn = [rand(shape) for shape in shapes]
    for row in range(5):
        alone = RowStreams(seeds[row : row + 1], dtype)
        for shape, numbers in zip(shapes, drawn, strict=True):
            assert torch.equal(alone((1, *shape[1:]))[0], numbers[row])
            assert numbers.dtype == dtype and numbers.shape == shape
    assert torch.equal(drawn[0][1], drawn[0][3])
    assert len(torch.cat([numbers.view(5, -1) for numbers in drawn], 1)[0].unique()) == 14
    with pytest.raises(ValueError, match="5 rows"):
        rand((4, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streams_are_uniform_and_of_neighbours_unrelated(dtype: torch.dtype) -> None:
    numbers = RowStreams(torch.arange(300), dtype)((300, 300))
    assert numbers.min() >= 0 and numbers.max() < 1
    cells = (numbers.flatten() * 100).long().bincount(minlength=100).double()
    assert chi_square(cells, torch.full((100,), 0.01).double()) > 1e-3
    for other in (numbers.roll(1, 0), numbers.roll(1, 1)):
        pairs = (numbers * 10).long() * 10 + (other * 10).long()
        law = torch.full((100,), 0.01).double()
        assert chi_square(pairs.flatten().bincount(minlength=100).double(), law) > 1e-3


def test_numbers_are_of_the_global_generator_by_default() -> None:
    torch.manual_seed(3)
    found = uniforms("cpu")((2, 3))
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(2, 3))
    assert uniforms("cpu", torch.float64)((1,)).dtype == torch.float64


def test_classes_are_drawn_by_their_shares() -> None:
    probs = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-24])
    assert categorical(probs.log(), u).tolist() == [1, 1, 3, 3, 4, 4]
    # Nor are impossible classes drawn where numbers are finer than probabilities.
    fine = torch.tensor([1 - 2**-53], dtype=torch.float64)
    for probs in (torch.rand(50, 8), torch.rand(50, 8).double()):
        logp = log_probs(probs).masked_fill(torch.arange(8) >= 6, -torch.inf).log_softmax(-1)
        assert (categorical(logp, fine.expand(50)) == 5).all()
        assert (categorical(logp, torch.zeros(50)) == 0).all()


def test_rare_tokens_of_a_large_vocabulary_stay_as_rare() -> None:
    """In one draw with the mask, as float32 rounds Gumbel noise, these come too seldom."""
    size, rows = 50_257, 200
    law = 1 / torch.arange(1, size + 1).double()
    law = law / law.sum()
    logits = law.log().float()
    made = sampler("ancestral", 1, size, 1024)
    logp = made.predict(logits.expand(rows, 1, -1))
    rare, nats = 0.0, 0.0
    draws = 8
    for _ in range(draws):
        token = categorical(logp, torch.rand(rows, 1))
        rare += float((token >= 1000).double().mean()) / draws
        nats += float(-law[token].log().mean()) / draws
    share = float(law[1000:].sum())
    assert rare == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / (rows * draws)))
    assert nats == pytest.approx(float(-(law * law.log()).sum()), abs=0.2)
    # How often a call shows a place does not depend on the vocabulary.
    places = torch.full((1, 1_000_000), 2)
    wide = sampler("ancestral", 1_000_000, 2, 1024)
    even = torch.full((1, 1_000_000, 2), math.log(0.5))
    after = wide.step(20, Step(places, torch.zeros(1, 1_000_000)), even, uniforms("cpu"))
    shown = float((after.z < 2).double().mean())
    assert shown == pytest.approx(1 / 1004, abs=3 * math.sqrt(1 / 1004 / 1e6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gumbel_noise_is_finite_and_has_its_law(dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).eps / 2
    edge = gumbel(torch.tensor([0.0, least, 1 - least], dtype=dtype))
    assert edge.isfinite().all() and edge[0] > edge[1] > 15 and edge[2] < -2.5
    u = (torch.arange(1000, dtype=dtype) + 0.5) / 1000
    expected = -(-(1 - u.double()).log()).log()
    torch.testing.assert_close(gumbel(u).double(), expected, atol=1e-4, rtol=1e-4)


def test_entropy_takes_impossible_tokens() -> None:
    logp = torch.tensor([[0.5, 0.5, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]).log()
    found = entropy(logp)
    torch.testing.assert_close(found, torch.tensor([math.log(2), 0, math.log(3)]))
    assert entropy(logp.double()).dtype == torch.float64


def test_ranks_count_from_the_smallest_and_ties_by_place() -> None:
    score = torch.tensor([[0.3, 0.1, torch.inf, 0.1, -torch.inf]])
    assert ranks(score).tolist() == [[3, 1, 4, 2, 0]]


def test_log_probabilities_are_never_of_16_bits() -> None:
    logits = torch.randn(2, 3)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert log_probs(logits.to(dtype)).dtype == torch.float32
    assert log_probs(logits.double()).dtype == torch.float64
    assert integers(torch.tensor([0.0, 0.5, 1 - 2**-24]), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guidance_of_zero_is_with_and_of_minus_one_without(dtype: torch.dtype) -> None:
    cond, uncond = torch.randn(2, 4, 5, dtype=dtype), torch.randn(2, 4, 5, dtype=dtype)
    assert torch.equal(guide(cond, uncond, 0.0), cond)
    torch.testing.assert_close(guide(cond, uncond, -1.0), uncond)
    torch.testing.assert_close(guide(cond, uncond, 1.0), 2 * cond - uncond)
    torch.testing.assert_close(guide(cond, uncond, 0.5), 1.5 * cond - 0.5 * uncond)
    assert guide(cond.bfloat16(), uncond.bfloat16(), 1.0).dtype == torch.float32


@pytest.mark.parametrize("weight", [0.0, 1.0, -1.0, 2.0])
def test_guidance_leaves_impossible_tokens_impossible(weight: float) -> None:
    cond, uncond = torch.randn(3, 4), torch.randn(3, 4)
    cond[:, 1] = uncond[:, 1] = -torch.inf
    cond[0, 2] = uncond[1, 2] = -torch.inf
    with no_waiting():
        found = guide(cond, uncond, weight)
    assert not found.isnan().any() and (found < torch.inf).all()
    assert (found == -torch.inf).sum(-1).tolist() == [2, 1, 1]
    assert found[1, 2] == cond[1, 2]
