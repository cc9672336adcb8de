"""Codes that are moving averages: their formula, their resets, and clusters found again.

The cosine codebook's own tests are in test_vq_ema.py; here it stands beside the Euclidean one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.quantizers import AVERAGED, SIZE, small_quantizer, state, vectors
from worldmodels.quantizers.vq_euclid import VQEuclid


def quantizer(**changed: Any) -> VQEuclid:
    """Without resets, of one position, unless `changed`."""
    off = {"revive_updates": 0, "revive_below": 0.0}
    made: VQEuclid = small_quantizer("vq_euclid", tokens=1, **{**off, **changed})
    return made


def update(q: Any, z: Tensor, codes: Tensor | None = None) -> dict[str, Tensor]:
    codes = q(z).codes if codes is None else codes
    metrics: dict[str, Tensor] = q.update(z, codes, torch.ones(codes.shape))
    return metrics


def test_codes_are_the_moving_averages_of_the_paper() -> None:
    q, decay = quantizer(decay=0.9), 0.9
    q.hits.fill_(2.0)
    count, sums = q.hits.double(), 2.0 * q.codebook.double()
    expected = q.codebook.double()
    for step in range(60):
        z = vectors(q, 40, seed=step)
        # Half of the codes, in turns, so that some go without for a while.
        codes = torch.randint(0, 16, (40, 1)) + 16 * (step % 2)
        update(q, z, codes)
        chosen = F.one_hot(codes[:, 0], SIZE).double()
        count = decay * count + (1 - decay) * chosen.sum(0)
        sums = decay * sums + (1 - decay) * chosen.T @ z[:, 0].double()
        hit = chosen.sum(0) > 0
        expected = torch.where(hit[:, None], sums / count[:, None], expected)
        torch.testing.assert_close(q.hits.double(), count, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(q.codebook.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_first_vectors_of_a_code_are_all_of_its_average() -> None:
    q = quantizer()
    z = vectors(q)
    codes = q(z).codes
    update(q, z)
    for code in codes.unique():
        torch.testing.assert_close(q.codebook[code], z[codes == code].mean(0))


@pytest.mark.parametrize("kind", AVERAGED)
def test_unused_codes_stay_where_they_are(kind: str) -> None:
    q = small_quantizer(kind, tokens=1, revive_updates=0, revive_below=0.0)
    before = q.codebook.clone()
    z = q.codebook[:3, None].clone()
    codes = torch.arange(3)[:, None]
    weight = torch.ones(3, 1)
    for _ in range(10_000):
        q.update(z, codes, weight)
    if kind == "vq_euclid":
        assert torch.equal(q.codebook[3:], before[3:])
    # Normalised again and again, a unit vector may end an ulp away, and stays there.
    torch.testing.assert_close(q.codebook, before, atol=1e-6, rtol=0)
    assert all(v.isfinite().all() for v in state(q).values())
    update(q, 2 * before[3:, None], torch.arange(3, SIZE)[:, None])
    assert q.codebook.isfinite().all()


def test_a_reset_moves_exactly_the_dead_codes_and_their_counts() -> None:
    q = quantizer(revive_updates=1)
    q.hits.fill_(1.0)
    q.hits[:10] = 0.05
    z = q.codebook[20:, None].repeat(5, 1, 1) + 0.01 * torch.randn(60, 1, q.dim)
    before = q.codebook.clone()
    told = update(q, z)["codes_revived"]
    equal = (q.codebook[:, None] == z[:, 0]).all(-1)
    assert told == 10 and torch.equal(equal.any(1), torch.arange(SIZE) < 10)
    assert equal.sum(0).max() == 1, "no vector serves twice"
    assert torch.equal(q.codebook[10:20], before[10:20])
    torch.testing.assert_close(q.hits[:10], q.hits[:1].expand(10))
    even = (q.hits[10:].sum() + 10 * 0.05 * 0.99) / SIZE
    torch.testing.assert_close(q.hits[0], even)
    chosen = equal[:10].float().argmax(1)
    assert torch.equal(q(z[chosen]).codes[:, 0], torch.arange(10)), "each is nearest to its own"
    moved = q.codebook[:10].clone()
    update(q, torch.zeros(4, 1, q.dim), torch.full((4, 1), 15))
    assert torch.equal(q.codebook[:10], moved), "what it was before does not come back"


@pytest.mark.parametrize(
    ("updates", "limit", "below", "expected"),
    [(0, 1, 0.0, True), (1, 1, 0.0, False), (1, 1, 1.0, False), (1, 1, 5.5, True)],
)
def test_resets_happen_early_or_after_a_collapse(
    updates: int, limit: int, below: float, expected: bool
) -> None:
    q = quantizer(revive_updates=limit, revive_below=below)
    q.updates.fill_(updates)
    told = update(q, q.codebook[:8, None].clone())["codes_revived"]
    assert told == (8 if expected else 0)


def test_codes_seeded_by_a_new_encoder_do_not_stay_behind_when_it_moves() -> None:
    q = quantizer(revive_updates=1000)
    for step in range(60):
        spread = 0.01 if step < 5 else 1.0
        update(q, spread * vectors(q, 200, seed=step) + 3)
    assert update(q, vectors(q, 400, seed=99) + 3)["codes_in_use"] > 0.9 * SIZE
    hits = torch.bincount(q(vectors(q, 2000, seed=98) + 3).codes.flatten(), minlength=SIZE)
    assert (hits > 0).float().mean() > 0.9


CLUSTERS, WIDTH = 8, 16
SEEDS = 20


def recovered(kind: str, size: int, seed: int, *, resets: bool) -> tuple[bool, float]:
    """Whether each of 8 well separated clusters has a code within 2 %; codes in use."""
    torch.manual_seed(seed)
    revive = {"revive_updates": 300 if resets else 0, "revive_below": 0.0}
    moves = {"decay": 0.95} | ({"usage_decay": 0.95} if kind == "vq_ema" else {})
    q = small_quantizer(kind, tokens=1, size=size, dim=WIDTH, **moves, **revive)
    centres = 5 * torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q[:CLUSTERS]
    for _ in range(300):
        z = centres[torch.randint(0, CLUSTERS, (128,))] + 0.05 * torch.randn(128, WIDTH)
        metrics = update(q, z[:, None])
    if kind == "vq_ema":
        centres = F.normalize(centres, dim=-1)
    apart = torch.cdist(centres, q.codebook).amin(1)
    found = bool((apart < 0.02 * centres.norm(dim=-1)).all())
    return found, metrics["codes_in_use"].item()


def test_clusters_are_found_with_resets_and_hardly_ever_without() -> None:
    found = [recovered("vq_euclid", 16, seed, resets=True)[0] for seed in range(SEEDS)]
    # Of 400 seeds 11 ended where no code dies and two clusters share one.
    assert sum(found) >= SEEDS - 1
    found = [recovered("vq_euclid", 16, seed, resets=False)[0] for seed in range(6)]
    assert sum(found) <= 2


def test_cosine_codes_find_clusters_and_are_all_in_use_with_resets() -> None:
    # They are replaced while evenness is two bits short of its best: with 16 codes and 8 clusters
    # never, with 64 codes always. So many find the clusters unaided, but most stay unused.
    for seed in range(6):
        found, in_use = recovered("vq_ema", 64, seed, resets=True)
        assert found and in_use > 40
    assert all(recovered("vq_ema", 64, seed, resets=False)[1] < 16 for seed in range(2))
