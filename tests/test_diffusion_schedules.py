"""How alpha falls, and how many tokens each call reveals."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch

from worldmodels.diffusion.schedules import SCHEDULES, Poly, Schedule, alphas, groups

SHAPES = ["linear", "cosine", "copilot"]
EVERY = [make() for make in SCHEDULES.values()] + [Poly(0.5), Poly(3.0)]


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_slope_and_weight_are_those_of_alpha(schedule: Schedule) -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(schedule.slope(t), slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.weight(t), -slope / (1 - alpha), rtol=1e-7, atol=1e-12)
    assert (slope <= 0).all()


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_alpha_goes_from_one_to_zero(schedule: Schedule) -> None:
    ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1.0, 0.0]).double(), rtol=0, atol=2e-5)
    grid = alphas(schedule, 5)
    assert grid[0] == 0 and grid[-1] == 1 and len(grid) == 6 and sorted(grid) == grid
    assert alphas(schedule, 1) == [0, 1]


def test_schedules_are_the_published_ones() -> None:
    t = torch.tensor(0.3, dtype=torch.float64)
    sigma = 1e-5**0.7 * 20**0.3
    published = {
        "linear": 0.7,
        "poly": 1 - 0.3**2,
        "cosine": 1 - math.cos(math.pi / 2 * 0.7),
        "geometric": math.exp(-sigma),
    }
    assert published == {
        name: pytest.approx(float(SCHEDULES[name]().alpha(t))) for name in published
    }
    assert published.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_call_reveals_a_token_and_the_last_one_the_rest(shape: str) -> None:
    for tokens in range(1, 65):
        for steps in range(1, tokens + 1):
            sizes = groups(tokens, steps, shape)
            assert len(sizes) == steps and sum(sizes) == tokens and min(sizes) >= 1


def test_groups_are_the_published_ones() -> None:
    def shown(tokens: int, steps: int, shape: str) -> list[int]:
        return list(accumulate(groups(tokens, steps, shape)))

    assert shown(64, 8, "copilot") == [13, 25, 36, 46, 54, 60, 63, 64]
    assert shown(64, 8, "cosine") == [2, 5, 11, 19, 29, 40, 52, 64]
    assert shown(64, 8, "linear") == [8, 16, 24, 32, 40, 48, 56, 64]
    # The half of a whole number is not rounded to one more.
    assert shown(64, 3, "copilot")[0] == 32 and shown(64, 3, "cosine")[1] == 32
    # As published the last calls of these have 15, 16 and 16.
    assert shown(16, 8, "copilot")[-3:] == [14, 15, 16]
    assert groups(5, 2, "linear") == (2, 3)
    for shape in SHAPES:
        assert groups(7, 7, shape) == (1,) * 7 and groups(7, 1, shape) == (7,)


@pytest.mark.parametrize("steps", [0, -1, 17])
def test_steps_without_a_token_each_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"16 tokens takes 1 to 16 steps, not {steps}"):
        groups(16, steps, "linear")


def test_an_unknown_shape_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="linear, cosine, copilot"):
        groups(16, 4, "square")
