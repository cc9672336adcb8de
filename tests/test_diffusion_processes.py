"""What training sees: which tokens are noise, how many, and which are scored."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.denoisers import chi_square
from tests.nets import no_waiting
from worldmodels.diffusion.draws import RowStreams, uniforms
from worldmodels.diffusion.kernels import marginal
from worldmodels.diffusion.processes import (
    COUNTS,
    PROCESSES,
    Absorbing,
    Copilot4D,
    Hybrid,
    Process,
    Uniform,
    choose,
    cosine_counts,
    noised_at,
)
from worldmodels.diffusion.schedules import Cosine, Linear

VOCAB, TOKENS = 5, 4
SETTINGS: dict[str, dict[str, Any]] = {
    "absorbing": {"schedule": Linear(), "counts": "cosine"},
    "uniform": {"schedule": Linear()},
    "hybrid": {"replaced": 0.2},
    "copilot4d": {"replaced": 0.2, "counts": "cosine"},
}
KINDS = list(PROCESSES)
WIDE = uniforms("cpu", torch.float64)


def process(kind: str, **changed: Any) -> Process:
    return PROCESSES[kind](vocab=VOCAB, **SETTINGS[kind] | changed)


def frames(*shape: int) -> Tensor:
    return torch.randint(VOCAB, (*shape, TOKENS))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_ids_it_may_have_and_scores_what_it_should(kind: str) -> None:
    tokens = frames(50, 7)
    before = tokens.clone()
    noised = process(kind).corrupt(tokens)
    assert noised.z.shape == tokens.shape and noised.level.shape == (50, 7)
    assert noised.z.dtype == torch.int64 and noised.scored.dtype == torch.bool
    assert torch.equal(tokens, before)
    masked = noised.z == VOCAB
    assert noised.z.min() >= 0 and noised.z.max() == (VOCAB - 1 if kind == "uniform" else VOCAB)
    if kind == "absorbing":
        assert torch.equal(noised.scored, masked)
        assert torch.equal(noised.z[~masked], tokens[~masked])
    else:
        assert noised.scored.all() and (noised.z != tokens)[~masked].any()
    if kind in ("absorbing", "copilot4d"):
        assert torch.equal(masked.sum(-1), noised.level) and masked.any(-1).all()
    else:
        assert ((noised.level > 0) & (noised.level < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_noised_alike_alone_and_among_others(kind: str) -> None:
    tokens, seeds, made = frames(6, 3), torch.arange(6), process(kind)
    together = made.corrupt(tokens, RowStreams(seeds))
    alone = [made.corrupt(tokens[i : i + 1], RowStreams(seeds[i : i + 1])) for i in range(6)]
    for field in ("z", "scored", "level"):
        expected = torch.cat([getattr(row, field) for row in alone])
        assert torch.equal(getattr(together, field), expected)
    assert len(together.z.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_noise_does_not_wait_for_the_device(kind: str) -> None:
    with no_waiting():
        process(kind).corrupt(frames(3, 2))
        process(kind).prior((3, TOKENS), uniforms("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_starts_from_what_training_ends_with(kind: str) -> None:
    z = process(kind).prior((2000, TOKENS), uniforms("cpu"))
    assert z.dtype == torch.int64 and z.shape == (2000, TOKENS)
    if kind == "uniform":
        counts = z.flatten().bincount(minlength=VOCAB).double()
        assert chi_square(counts, torch.full((VOCAB,), 1 / VOCAB).double()) > 1e-3
    else:
        assert (z == VOCAB).all()


def test_counts_are_as_likely_as_said() -> None:
    # The grid is fine: shares are exact but for one of its cells.
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for tokens, all_masked in ((4, 0.46), (16, 0.23), (64, 0.11)):
        counts = cosine_counts(u, tokens)
        share = float((counts == tokens).double().mean())
        assert share == pytest.approx(2 / math.pi * math.acos(1 - 1 / tokens), abs=1e-4)
        assert share == pytest.approx(all_masked, abs=0.005)
    even = COUNTS["uniform"](u, 5).bincount()
    assert even.tolist() == [0] + [40_000] * 5
    edge = torch.tensor([0.0, 1 - 2**-24])
    for draw in COUNTS.values():
        assert sorted(draw(edge, 64).tolist()) == [1, 64] and draw(edge, 1).tolist() == [1, 1]


def test_all_sets_of_a_size_are_as_likely() -> None:
    masked = choose(torch.full((60_000,), 2), WIDE, TOKENS)
    assert (masked.sum(-1) == 2).all()
    which = (masked.long() * 2 ** torch.arange(TOKENS)).sum(-1).bincount(minlength=16).double()
    pairs = torch.tensor([float(bin(i).count("1") == 2) for i in range(16)]).double() / 6
    assert chi_square(which, pairs) > 1e-3


@pytest.mark.parametrize(
    "kernel",
    [
        Uniform(vocab=VOCAB, schedule=Cosine()),
        Hybrid(vocab=VOCAB, replaced=0.4),
    ],
)
def test_tokens_become_what_the_marginal_says(kernel: Uniform | Hybrid) -> None:
    tokens = torch.full((50_000, 2), 3)
    for time in (0.1, 0.5, 0.9):
        t = torch.full((50_000,), time, dtype=torch.float64)
        z = noised_at(kernel, tokens, t, WIDE)
        counts = z.flatten().bincount(minlength=VOCAB + 1).double()
        assert chi_square(counts, marginal(kernel, t[0])[3]) > 1e-3
        # Tokens of a frame meet noise one by one.
        pairs = (z[:, 0] * (VOCAB + 1) + z[:, 1]).bincount(minlength=(VOCAB + 1) ** 2).double()
        law = torch.outer(marginal(kernel, t[0])[3], marginal(kernel, t[0])[3]).flatten()
        assert chi_square(pairs, law) > 1e-3


def test_each_frame_has_a_time_of_its_own() -> None:
    noised = process("uniform").corrupt(torch.zeros(40_000, TOKENS).long(), WIDE)
    wrong = (noised.z != 0).double().mean(-1)
    late = noised.level > 0.5
    # A token of time t differs with probability t (V-1)/V.
    for times, expected in ((late, 0.75), (~late, 0.25)):
        assert float(wrong[times].mean()) == pytest.approx(expected * 4 / 5, abs=0.01)


def test_copilot4d_replaces_up_to_a_fifth_of_what_it_does_not_mask() -> None:
    tokens = torch.zeros(100_000, 4).long()
    made = Copilot4D(vocab=VOCAB, replaced=0.2, counts="uniform")
    noised = made.corrupt(tokens, WIDE)
    visible = noised.z < VOCAB
    changed = (noised.z != 0) & visible
    assert float(changed.sum() / visible.sum()) == pytest.approx(0.1 * 4 / 5, abs=0.003)
    ids = noised.z[changed].bincount(minlength=VOCAB).double()
    assert chi_square(ids, torch.tensor([0, 0.25, 0.25, 0.25, 0.25]).double()) > 1e-3
    # One share a frame: two visible tokens are wrong together more often than by chance.
    one_mask = noised.level == 1
    both = (changed.sum(-1) >= 2)[one_mask].double().mean()
    share = 0.8 * torch.linspace(0, 0.2, 1001).double()
    expected = (3 * share.square() * (1 - share) + share**3).mean()
    assert float(both) == pytest.approx(float(expected), abs=0.004)
    none = Copilot4D(vocab=VOCAB, replaced=0.0, counts="uniform").corrupt(tokens)
    assert (none.z % VOCAB == 0).all()


def test_frames_of_one_token_are_always_masked() -> None:
    tokens = torch.zeros(20, 1).long()
    made = Absorbing(vocab=VOCAB, schedule=Linear(), counts="cosine")
    assert (made.corrupt(tokens).z == VOCAB).all()
