"""Lambda-returns, the mask of imagined steps, and the scale of returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.returns import Percentiles, Unscaled, alive, lambda_returns
from tests.nets import no_waiting

H = 7


def episode() -> tuple[Tensor, Tensor, Tensor]:
    rew, end, value = torch.randn(5, H), torch.rand(5, H) < 0.2, torch.randn(5, H + 1)
    end[0], end[1, -1], end[2, 0] = False, True, True
    return rew, end, value


def plain(rew: list[float], end: list[bool], value: list[float], g: float, lam: float) -> float:
    """The return of the first step, by its definition."""
    if not rew:
        return value[0]
    if end[0]:
        return rew[0]
    later = plain(rew[1:], end[1:], value[1:], g, lam)
    return rew[0] + g * ((1 - lam) * value[1] + lam * later)


@pytest.mark.parametrize(("gamma", "lam"), [(0.997, 0.95), (0.5, 0.3), (1.0, 1.0), (0.9, 0.0)])
def test_returns_equal_a_plain_recursion(gamma: float, lam: float) -> None:
    rew, end, value = episode()
    ret = lambda_returns(rew, end, value, gamma=gamma, lam=lam)
    for b in range(5):
        for t in range(H):
            r, d, v = (x[b, t:].tolist() for x in (rew, end, value))
            assert ret[b, t].item() == pytest.approx(plain(r, d, v, gamma, lam), abs=1e-5)


def test_lambda_1_is_the_discounted_sum_and_lambda_0_one_step() -> None:
    rew, _, value = episode()
    never = torch.zeros(5, H, dtype=torch.bool)
    far = lambda_returns(rew, never, value, gamma=0.9, lam=1.0)
    powers = 0.9 ** torch.arange(H)
    torch.testing.assert_close(far[:, 0], rew @ powers + 0.9**H * value[:, -1])
    near = lambda_returns(rew, never, value, gamma=0.9, lam=0.0)
    torch.testing.assert_close(near, rew + 0.9 * value[:, 1:])


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_an_end_cuts_the_bootstrap_and_all_that_follows(lam: float) -> None:
    rew, _, value = episode()
    end = torch.zeros(5, H, dtype=torch.bool)
    end[:, 3] = True
    base = lambda_returns(rew, end, value, gamma=0.9, lam=lam)
    other_rew, other_value = rew.clone(), value.clone()
    other_rew[:, 4:] += 100
    other_value[:, 4:] += 100
    changed = lambda_returns(other_rew, end, other_value, gamma=0.9, lam=lam)
    torch.testing.assert_close(changed[:, :4], base[:, :4])
    assert torch.equal(base[:, 3], rew[:, 3])


def test_returns_are_float32_under_autocast() -> None:
    rew, end, value = episode()
    expected = lambda_returns(rew, end, value, gamma=0.997, lam=0.95)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lambda_returns(rew, end, value, gamma=0.997, lam=0.95), expected)


def test_steps_count_up_to_and_including_the_first_end() -> None:
    end = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1]]).bool()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert torch.equal(alive(end), mask)


def percentiles(low: float = 5, high: float = 95, decay: float = 0.9) -> Percentiles:
    return Percentiles(low=low, high=high, decay=decay, limit=1.0)


@pytest.mark.parametrize(("low", "high"), [(5, 95), (0, 100), (2.5, 97.5), (30, 31)])
def test_the_scale_follows_the_range_of_returns_that_count(low: float, high: float) -> None:
    scale, expected = percentiles(low, high), 0.0
    # What does not count may be anything; NaN alone would be sorted last.
    for update, other in enumerate((torch.nan, -1e9, 1e9, 0.0, -torch.inf)):
        ret, mask = torch.randn(6, H) * 10**update, torch.rand(6, H) < 0.6
        mask[:, 0] = True
        counted = ret[mask].double().numpy()
        bottom, top = np.percentile(counted, [low, high])
        expected = 0.9 * expected + 0.1 * float(top - bottom)
        with no_waiting():
            metrics = scale.learn(ret.where(mask, other), mask)
        assert metrics["return_spread"].item() == pytest.approx(expected, rel=1e-4)
    divided = scale(torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(divided, torch.tensor([1.0, -3.0]) / max(1.0, expected))


def test_the_scale_of_one_return_or_equal_ones_is_zero() -> None:
    mask = torch.zeros(3, H, dtype=torch.bool)
    mask[1, 0] = True
    for ret, counted in ((torch.randn(3, H), mask), (torch.full((3, H), 7.0), mask | True)):
        assert percentiles(decay=0).learn(ret, counted)["return_spread"] == 0


def test_small_ranges_are_not_made_large() -> None:
    scale, advantage = percentiles(decay=0), torch.randn(4, H)
    assert torch.equal(scale(advantage), advantage)
    scale.learn(torch.rand(4, H) * 0.9, torch.ones(4, H).bool())
    assert scale.spread > 0.5 and torch.equal(scale(advantage), advantage)


def test_the_scale_is_saved_and_only_learning_moves_it() -> None:
    scale, other = percentiles(), percentiles()
    scale.learn(torch.randn(4, H) * 50, torch.ones(4, H).bool())
    before = scale.spread.clone()
    scale(torch.randn(4, H))
    assert torch.equal(scale.spread, before) and before > 1
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other.spread, before)


def test_unscaled_advantages_are_the_same_numbers_without_state() -> None:
    advantage = torch.randn(4, H)
    assert Unscaled()(advantage) is advantage and not Unscaled().state_dict()
    assert Unscaled().learn(advantage, advantage > 0) == {}
