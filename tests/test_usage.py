"""Counts of codes: what is logged of every quantizer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.nets import no_waiting
from worldmodels.quantizers.usage import DEAD, WINDOW, Usage, entropy, match, perplexity

SIZE, TOKENS = 16, 4


def ones(codes: Tensor) -> Tensor:
    return torch.ones(codes.shape)


def update(usage: Usage, codes: Tensor, weight: Tensor | None = None) -> dict[str, float]:
    metrics = usage.update(codes, ones(codes) if weight is None else weight)
    return {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([1 / 16] * 16, 16.0),
        ([1.0, 0, 0, 0], 1.0),
        ([0.5, 0.25, 0.25, 0.0], 2**1.5),
        ([0.0, 0, 0, 0], 1.0),
    ],
)
def test_perplexity_of_shares_counted_by_hand(shares: list[float], expected: float) -> None:
    assert perplexity(torch.tensor(shares)).item() == pytest.approx(expected)
    assert entropy(torch.tensor(shares)).exp2().item() == pytest.approx(expected)


def test_constants_that_differ_by_position_have_a_perplexity_of_one_by_position() -> None:
    metrics = update(Usage(SIZE, TOKENS), torch.arange(TOKENS).expand(30, TOKENS))
    assert metrics["perplexity"] == pytest.approx(4)
    assert metrics["slot_perplexity"] == pytest.approx(1)
    assert metrics["code_usage"] == 4 / 16 and metrics["codes_in_use"] == 4


def test_perplexity_by_position_is_the_mean_over_positions() -> None:
    codes = torch.tensor([[0, 2, 5, 5], [1, 2, 5, 6], [0, 2, 5, 7], [1, 2, 5, 8]])
    metrics = update(Usage(SIZE, TOKENS), codes)
    assert metrics["slot_perplexity"] == pytest.approx((2 + 1 + 1 + 4) / 4)


def test_flat_codes_stand_frame_by_frame() -> None:
    codes = torch.randint(0, SIZE, (3, 5, TOKENS))
    one, other = Usage(SIZE, TOKENS), Usage(SIZE, TOKENS)
    assert torch.equal(one.count(codes, ones(codes)), other.count(codes.flatten(), ones(codes)))


def test_padding_is_not_counted() -> None:
    codes, weight = torch.randint(0, SIZE, (40, TOKENS)), torch.ones(40, TOKENS)
    weight[25:] = 0
    padded, plain = Usage(SIZE, TOKENS), Usage(SIZE, TOKENS)
    assert update(padded, codes, weight) == update(plain, codes[:25])
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in padded.state_dict().items())


def test_a_batch_of_padding_changes_nothing() -> None:
    usage, codes = Usage(SIZE, TOKENS), torch.randint(0, SIZE, (9, TOKENS))
    update(usage, codes)
    before = {k: v.clone() for k, v in usage.state_dict().items()}
    assert all(v == v for v in update(usage, codes, torch.zeros(9, TOKENS)).values())
    assert all(torch.equal(v, before[k]) for k, v in usage.state_dict().items())


def test_codes_count_as_in_use_for_a_window_of_batches() -> None:
    usage = Usage(SIZE, 1)
    assert update(usage, torch.tensor([[3], [4]]))["codes_in_use"] == 2
    for _ in range(WINDOW - 1):
        assert update(usage, torch.tensor([[5], [4]]))["codes_in_use"] == 3
    assert update(usage, torch.tensor([[5], [4]]))["codes_in_use"] == 2


def test_shares_move_and_codes_below_a_tenth_of_even_are_dead() -> None:
    usage = Usage(SIZE, 1, decay=0.9)
    batches = 0
    while usage.share[7] >= DEAD / SIZE:
        metrics = update(usage, torch.zeros(5, 1, dtype=torch.long))
        batches += 1
    assert batches == 22 and 0.9**22 < 0.1 < 0.9**21
    assert metrics["dead_codes"] == SIZE - 1 and not usage.dead()[0]
    assert usage.share.sum().item() == pytest.approx(1)
    p = usage.share
    assert metrics["usage_entropy"] == pytest.approx(-(p * p.log2()).sum().item(), abs=1e-5)


def test_two_halves_count_as_the_whole() -> None:
    codes = torch.randint(0, SIZE, (20, TOKENS))
    counts = [Usage(SIZE, TOKENS).count(part, ones(part)) for part in (codes, codes[:9], codes[9:])]
    assert torch.equal(counts[0], counts[1] + counts[2])


def test_each_dead_code_meets_one_vector() -> None:
    dead, weight = torch.arange(SIZE) < 6, (torch.arange(30) >= 20).float()
    codes, found, chosen = match(dead, weight, torch.tensor(True))
    assert chosen.sum() == 6 and set(codes[chosen].tolist()) == set(range(6))
    assert len(set(found[chosen].tolist())) == 6 and (found[chosen] >= 20).all()
    assert not match(dead, weight, torch.tensor(False))[2].any()
    assert match(dead, weight * 0, torch.tensor(True))[2].sum() == 0


def test_nothing_waits_for_the_host() -> None:
    usage, codes = Usage(SIZE, TOKENS), torch.randint(0, SIZE, (9, TOKENS))
    with no_waiting():
        usage.update(codes, torch.ones(9, TOKENS))
        usage.revive(*match(usage.dead(), torch.ones(9), torch.tensor(True))[::2])
