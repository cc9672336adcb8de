"""Composed pictures: what is where, and that every format keeps it."""

from __future__ import annotations

import importlib.util
import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.experience import Finished
from envs.scores import ACHIEVEMENTS
from runners.charts import Line, line_chart, unlock_bars
from runners.drawing import BLUE, fitted, font, heat, value_range
from runners.errors import UserError
from runners.media import encode_apng, encode_gif, encode_mp4
from runners.pictures import GAP, MARK, TITLE, dream_grid, error_map, panels
from runners.strips import HEAD, MARGIN, outcome, strip
from runners.tally import Tally

T, SEEN, SIZE, SCALE, SMALL_SCALE = 6, 2, 16, 12, 8
GREEN_MARK, RED_MARK = (0x1A, 0x7F, 0x37), (0xD1, 0x24, 0x2F)


def clip_of(seed: int, num: int = T) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, SIZE, SIZE, 3), np.uint8)


def comparison(real: np.ndarray, recon: np.ndarray, dream: np.ndarray, **more: Any) -> np.ndarray:
    nothing = np.full(T, np.nan)
    numbers: dict[str, Any] = {
        "rew_true": np.arange(T, dtype=float),
        "rew_pred": nothing,
        "end_prob": np.linspace(0, 1, T),
        "value": nothing,
    }
    top = panels(real, recon, dream, SEEN)
    return np.concatenate([top, strip(outcome(**(numbers | more)), SEEN, top.shape[2])], axis=1)


def panel(clip: np.ndarray, column: int) -> np.ndarray:
    """The picture inside the mark, brought back to its own size."""
    left = MARGIN + column * (SIZE * SCALE + 2 * MARK + GAP) + MARK
    top = HEAD + TITLE + MARK
    return clip[:, top : top + SIZE * SCALE : SCALE, left : left + SIZE * SCALE : SCALE]


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def test_columns_show_their_clips_and_the_error() -> None:
    real, recon, dream = clip_of(1), clip_of(2), clip_of(3)
    clip = comparison(real, recon, dream)
    assert clip.dtype == np.uint8 and len(clip) == T
    np.testing.assert_array_equal(panel(clip, 0), real)
    np.testing.assert_array_equal(panel(clip, 1), recon)
    np.testing.assert_array_equal(panel(clip, 2), dream)
    np.testing.assert_array_equal(panel(clip, 3), error_map(real, dream, 4.0))


def test_error_is_black_where_equal_and_saturates() -> None:
    real = np.zeros((1, 2, 2, 3), np.uint8)
    other = real.copy()
    other[0, 0, 0, 1] = 255
    shown = error_map(real, other, 4.0)
    assert (shown[0, 1] == 0).all()
    np.testing.assert_array_equal(shown[0, 0, 0], heat(np.array(1.0)))


def test_marks_change_colour_and_thickness_when_the_dream_begins() -> None:
    black = np.zeros((T, SIZE, SIZE, 3), np.uint8)
    clip = comparison(black, black, black)
    left, top = MARGIN, HEAD + TITLE
    box = clip[:, top : top + SIZE * SCALE + 2 * MARK, left : left + SIZE * SCALE + 2 * MARK]
    for t in range(T):
        assert has(box[t], GREEN_MARK) == (t < SEEN)
        assert has(box[t], RED_MARK) == (t >= SEEN)
    outer = box[:, 0]
    assert not (outer[0] == GREEN_MARK).all(-1).any(), "the mark of the seen part is thinner"
    dashes = (outer[SEEN] == RED_MARK).all(-1)
    assert dashes.any() and not dashes.all(), "the mark of the dreamed part is dashed"


def test_cursor_moves_to_the_right() -> None:
    black = np.zeros((T, SIZE, SIZE, 3), np.uint8)
    clip = comparison(black, black, black)
    below = clip[:, HEAD + TITLE + SIZE * SCALE + 2 * MARK + GAP :]
    columns = (below[:, :20] == (0x1F, 0x23, 0x28)).all(-1).all(1)
    at = [int(np.flatnonzero(row)[0]) for row in columns]
    assert at == sorted(set(at)) and len(at) == T


def test_flat_and_missing_numbers_draw() -> None:
    black = np.zeros((T, SIZE, SIZE, 3), np.uint8)
    nothing = np.full(T, np.nan)
    comparison(black, black, black, rew_true=np.zeros(T), end_prob=nothing)
    low, high = value_range([nothing])
    assert low == 0 and high > 0
    low, high = value_range([np.array([-2.0, np.nan, 1.0])])
    assert low < -2 and high > 1


def test_grid_shows_each_dream_and_pales_what_ended() -> None:
    dreams = np.stack([clip_of(n) for n in range(5)])
    ended = np.zeros((5, T), bool)
    ended[4, 4:] = True
    clip = dream_grid(dreams, SEEN, returns=np.zeros((5, T)), ended=ended, columns=4)
    side = SMALL_SCALE * SIZE + 2 * MARK

    def cell(n: int) -> np.ndarray:
        left = MARGIN + n % 4 * (side + GAP) + MARK
        top = HEAD + n // 4 * (TITLE + side + 4) + TITLE + MARK
        end = SMALL_SCALE * SIZE
        return clip[:, top : top + end : SMALL_SCALE, left : left + end : SMALL_SCALE]

    for n in range(4):
        np.testing.assert_array_equal(cell(n), dreams[n])
    np.testing.assert_array_equal(cell(4)[:4], dreams[4, :4])
    assert cell(4)[4:].min() >= 160


def test_large_pictures_are_not_enlarged() -> None:
    large = np.zeros((1, 100, 210, 3), np.uint8)
    width = panels(large, large, large, 1).shape[2]
    assert width == 2 * MARGIN + 4 * (210 + 2 * MARK + GAP) - GAP
    grid = dream_grid(large[None], 1, returns=np.zeros((1, 1)), ended=np.zeros((1, 1), bool))
    assert grid.shape[1] == HEAD + TITLE + 100 + 2 * MARK + 4 + GAP


def test_words_are_cut_to_fit_but_not_their_end() -> None:
    assert fitted("speed", 13, 200, "[3]") == "speed[3]"
    cut = fitted("a name of many letters", 13, 80, "[12]")
    assert cut.endswith("…[12]") and 50 < font(13).getlength(cut) <= 80


def test_bars_are_as_long_as_their_rates() -> None:
    tally = Tally()
    stats = {f"achievement/{name}": 0.0 for name in ACHIEVEMENTS}
    first, second, third = ACHIEVEMENTS[:3]
    for i in range(200):
        got = {f"achievement/{first}": 1.0, f"achievement/{second}": float(i % 2)}
        got[f"achievement/{third}"] = float(i == 0)
        tally.add([Finished(env=0, ret=0.0, length=1, stats=stats | got)])
    picture = unlock_bars(tally.rates())
    blue = tuple(int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    lengths = (picture == blue).all(-1).sum(1)
    whole, half, least, none = (int(lengths[34 + 22 * i + 10]) for i in range(4))
    assert whole == 321 and half == pytest.approx(whole / 2, abs=2)
    assert 0 < least < 5 and none == 0


def test_line_chart_takes_one_point_and_zeros() -> None:
    zero = np.zeros(1)
    line = Line("nothing", zero, zero, zero, BLUE)
    chart = line_chart(np.ones(1), [line], title="a", x_name="x", y_name="y")
    assert chart.ndim == 3 and chart.dtype == np.uint8


def test_apng_is_lossless_and_gif_is_near() -> None:
    clip = np.repeat(clip_of(0)[:, :4, :4], 8, axis=1).repeat(8, axis=2)
    for data, worst in ((encode_apng(clip, 8), 0), (encode_gif(clip, 8), 12)):
        picture: Any = Image.open(io.BytesIO(data))
        assert picture.n_frames == T
        for t in range(T):
            picture.seek(t)
            shown = np.asarray(picture.convert("RGB")).astype(int)
            assert np.abs(shown - clip[t]).mean() <= worst
        assert picture.info["duration"] == pytest.approx(1125, abs=6), "the last frame stays"


def test_a_clip_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="T,H,W,3"):
        encode_apng(clip_of(0).astype(np.float32), 8)
    with pytest.raises(ValueError, match="T,H,W,3"):
        encode_gif(clip_of(0)[0], 8)


def test_mp4_without_its_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"tokendream\[video\]"):
        encode_mp4(clip_of(0), 8)


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="the extra `video` is missing")
def test_mp4_plays() -> None:
    import av

    clip = np.repeat(clip_of(0)[:, :4, :4], 9, axis=1).repeat(9, axis=2)[:, :35, :35]
    with av.open(io.BytesIO(encode_mp4(clip, 8))) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == T + 8 and frames[0].shape == (36, 36, 3)


def test_a_chart_of_negative_numbers_keeps_them_in_the_picture() -> None:
    x = np.arange(3.0)
    nothing = np.full(3, np.nan)
    line = Line("games lost", np.array([-21.0, -20.0, 3.0]), nothing, nothing, BLUE)
    positive = Line("games won", np.array([0.0, 1.0, 3.0]), nothing, nothing, BLUE)
    drawn = [line_chart(x, [each], title="", x_name="", y_name="") for each in (line, positive)]
    blue = [(p[..., 2].astype(int) - p[..., 0] > 100)[90:340].nonzero() for p in drawn]
    for rows, columns in blue:
        # The line reaches from the left to the right side of the plot.
        assert columns.min() < 100 and columns.max() > 560
        assert np.ptp(rows) > 150
