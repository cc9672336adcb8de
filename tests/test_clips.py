"""What dreams of pictures, vectors, categories and several things at once look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runners.clips import ALONE, EACH, clip_of, grid_of, most_moving
from runners.drawing import BLUE, ORANGE
from runners.pictures import GAP, MARK, TITLE
from runners.rollout import Comparison, FreeDreams
from runners.strips import FOOT, HEAD, LABEL, LEAST_WIDTH, MARGIN, READOUT, ROW, ROW_GAP, TOP
from tests.dreams import Colours, Numbers, Several, dreamt, episode

SEEN, HORIZON = 2, 6
STEPS = SEEN + HORIZON
OUTCOME = 3
"""Rows of reward, end and value."""


def high(rows: int) -> int:
    """A strip of so many rows."""
    return TOP + rows * (ROW + ROW_GAP) + FOOT


def of(shows: Colours, **model: bool | int) -> tuple[Comparison, FreeDreams]:
    episodes = [episode(40, seed, shows=shows) for seed in range(3)]
    found = dreamt(episodes, horizon=HORIZON, num=4, shows=shows, **model)
    return found.comparison, found.free


def colour(picture: np.ndarray, name: str) -> np.ndarray:
    """Where a colour of a line is, about."""
    rgb = [int(name[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(picture.astype(int) - rgb).max(-1) < 12


def plots(clip: np.ndarray, row: int, top: int = HEAD) -> np.ndarray:
    """One row's plot, without the names and the numbers beside it."""
    begin = top + TOP + row * (ROW + ROW_GAP)
    return clip[..., begin : begin + ROW, MARGIN + LABEL : -MARGIN - READOUT, :]


def test_a_vector_is_shown_by_its_numbers_over_time() -> None:
    compared, free = of(Numbers(), drift=2)
    clip = clip_of(compared, 0)
    assert clip.shape == (STEPS, HEAD + high(3 + OUTCOME), LEAST_WIDTH, 3)
    assert len({frame.tobytes() for frame in clip}) == STEPS, "the cursor moves"
    for row in range(3):
        first = plots(clip, row)[0]
        assert colour(first, BLUE).any()
        # The third number never changes, so all lines of it are one.
        dreamed = np.flatnonzero(colour(first, ORANGE).any(0))
        border = SEEN / STEPS * first.shape[1]
        assert dreamed.min() > border and dreamed.max() > 0.9 * first.shape[1]
    grid = grid_of(free)
    assert grid.shape == (1, HEAD + high(3 + 1), LEAST_WIDTH, 3)
    assert colour(plots(grid, 1)[0], ORANGE).any()


def test_a_reconstruction_that_is_off_has_a_line_of_its_own() -> None:
    compared, _ = of(Numbers())
    right = clip_of(compared, 0)
    wrong = clip_of(replace(compared, recon=compared.recon - np.array([5, 0, 0], np.float32)), 0)
    np.testing.assert_array_equal(plots(wrong, 1), plots(right, 1))
    new = (plots(wrong, 0) != plots(right, 0)).any((0, 3))
    assert new.any(0).mean() > 0.4, "it is dashed"


def test_of_many_numbers_those_that_move_most_are_shown() -> None:
    odd = np.arange(2 * ALONE) % 2
    x = np.random.default_rng(0).normal(size=(9, 2 * ALONE)) * (1e-3 + odd)
    assert most_moving({"": x}) == [("", i) for i in range(1, 2 * ALONE, 2)]
    picture = np.zeros((9, 8, 8, 3), np.uint8)
    assert most_moving({"pixels": picture, "state": x[:, :3]}) == [("state", i) for i in range(3)]
    assert len(most_moving({"pixels": picture, "state": x})) == EACH
    several = {str(i): x for i in range(7)}
    assert [name for name, _ in most_moving({"pixels": picture, **several})] == list(several)


def test_of_several_things_the_picture_is_above_the_numbers() -> None:
    compared, free = of(Several(), drift=2)
    of_picture, dreams_of_picture = of(Colours(), drift=2)
    clip, alone = clip_of(compared, 0), clip_of(of_picture, 0)
    top = HEAD + TITLE + 8 * 24 + 2 * MARK + GAP
    np.testing.assert_array_equal(clip[:, :top], alone[:, :top])
    assert alone.shape[1] == top + high(OUTCOME)
    # Three numbers and two choices.
    assert clip.shape[1] == top + high(3 + 2 + OUTCOME)
    assert colour(plots(clip, 3, top)[0], BLUE).any()
    np.testing.assert_array_equal(grid_of(free), grid_of(dreams_of_picture))


def test_lines_of_a_dream_stop_where_it_ends() -> None:
    _, free = of(Numbers(), ends_at=3)
    width = plots(grid_of(free), 1).shape[2] + READOUT
    shown = grid_of(free)[0, HEAD + TOP + ROW + ROW_GAP :][:ROW, MARGIN + LABEL :][:, :width]
    lines = np.flatnonzero(colour(shown, ORANGE).any(0))
    assert lines.max() < (SEEN + 3) / STEPS * width


def test_numbers_that_never_change_and_dreams_that_have_ended_draw() -> None:
    compared, free = of(Numbers())
    still = np.zeros_like(compared.real)
    clip = clip_of(replace(compared, real=still, recon=still, dream=still), 0)
    assert colour(plots(clip, 0)[0], BLUE).any()
    assert grid_of(replace(free, ended=np.ones_like(free.ended))).shape[0] == 1


@pytest.mark.parametrize("shows", [Numbers(), Several(), Colours()])
def test_captions_are_shown_where_they_fit(shows: Colours) -> None:
    compared, free = of(shows)
    for draw in (lambda words: clip_of(compared, 0, words), lambda words: grid_of(free, words)):
        assert draw("step 12").shape == draw("").shape
    assert (clip_of(compared, 0, "step 12") != clip_of(compared, 0)).any()
