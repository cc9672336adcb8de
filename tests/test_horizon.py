"""Errors by horizon, their files and their intervals."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from runners.dream import table
from runners.frame_errors import Choices, Numbers, Pictures, measure_of
from runners.horizon import band_of, reports_of
from tests import dreams
from tests.dreams import EPISODES, Several, drawn, dreamt, episode, reported


def test_report_knows_perfect_drifting_and_copying() -> None:
    perfect, drifting = reported(horizon=4), reported(horizon=4, drift=3)
    np.testing.assert_array_equal(perfect.bands["mse"].mean, 0)
    np.testing.assert_array_equal(perfect.bands["recon_mse"].mean, 0)
    h = np.arange(1, 5)
    np.testing.assert_allclose(drifting.bands["mse"].mean, (3 * h / 255) ** 2, rtol=1e-5)
    np.testing.assert_allclose(drifting.bands["reward_error"].mean, 3)
    np.testing.assert_array_equal(drifting.bands["token_accuracy"].mean, 0)
    batch, _ = drawn(EPISODES, 2, 4, 30, np.random.default_rng(0))
    moved = (1 + batch.act[:, 2:]).cumsum(1).numpy() / 255
    for report in (perfect, drifting):
        np.testing.assert_allclose(report.bands["copy_mse"].mean, (moved**2).mean(0), rtol=1e-5)
    assert (perfect.bands["misled_mse"].mean > 0).all()


def test_scalars_and_files_of_a_report() -> None:
    report = reported(horizon=6, drift=1)
    scalars = report.scalars()
    assert {f"imagination/mse_h{h}" for h in (1, 5, 6)} <= set(scalars)
    assert scalars["imagination/mse_h6_low"] <= scalars["imagination/mse_h6"]
    assert scalars["imagination/token_accuracy_h1"] == 0
    rows = list(csv.DictReader(io.StringIO(report.csv())))
    assert [row["horizon"] for row in rows] == list("123456")
    assert float(rows[5]["mse"]) == pytest.approx(scalars["imagination/mse_h6"], rel=1e-4)
    assert json.loads(json.dumps(report.as_dict()))["mse"]["mean"][0] == pytest.approx(255**-2)
    assert report.num_windows == 30 and report.words() == "3 made-up episodes"
    alone = reported(EPISODES[:1], horizon=6)
    assert alone.num_windows == 30 and "imagination/mse_h1_low" not in alone.scalars()
    assert alone.as_dict()["mse"]["low"][0] is None
    assert alone.chart().shape == report.chart().shape


def test_numbers_are_told_by_their_variance_and_in_their_own_units() -> None:
    # Of 4 frames: the first number has the variance 4, the second 1/4, the third never changes.
    real = np.array([[[0, 0, 7], [4, 1, 7]], [[0, 0, 7], [4, 1, 7]]], np.float32)
    off = real + np.array([1, 1, 100], np.float32)
    measure = measure_of(real)
    assert isinstance(measure, Numbers)
    np.testing.assert_allclose(measure.error(off, real), (1 / 4 + 4) / 2)
    np.testing.assert_allclose(measure.of_recon(off, real)["recon_l1"], 102 / 3)
    # As bad as saying the mean all the time.
    mean = np.broadcast_to(real.mean((0, 1)), real.shape)
    np.testing.assert_allclose(measure.error(mean, real).mean(), 1)
    # The last frame seen may stand for many.
    np.testing.assert_allclose(measure.error(real[:, :1], real), [[0, 4], [0, 4]])
    still = measure_of(real[:, :1])
    assert np.isnan(still.error(off[:, :1], real[:, :1])).all()


def test_categories_are_wrong_or_not() -> None:
    real = np.array([[[0, 3], [1, 3]]])
    measure = measure_of(real)
    assert isinstance(measure, Choices) and measure.of_recon(real, real) == {}
    np.testing.assert_array_equal(measure.error(np.array([[[0, 3], [2, 9]]]), real), [[0, 1]])
    np.testing.assert_array_equal(measure.error(real[:, :1], real), [[0, 0.5]])
    assert isinstance(measure_of(np.zeros((1, 1, 2, 2, 3), np.uint8)), Pictures)


def test_a_vector_alone_has_the_tags_of_a_picture_and_one_more() -> None:
    shows = dreams.Numbers()
    games = [episode(40, seed, shows=shows) for seed in range(3)]
    found = dreamt(games, horizon=4, drift=3, shows=dreams.Numbers(off=0.5))
    (report,) = found.reports.values()
    batch, _ = drawn(games, 2, 4, 30, np.random.default_rng(0))
    variance = batch.obs[:, 1:, 0].double().var(correction=0).item()
    h = np.arange(1, 5)
    # The second number is -2 times the first, but for what is off: so is its error.
    expected = ((3 * h + 0.5) ** 2 + (3 * h) ** 2) / 2 / variance
    np.testing.assert_allclose(report.bands["mse"].mean, expected, rtol=1e-5)
    np.testing.assert_allclose(report.bands["recon_mse"].mean, 0.5**2 / 2 / variance, rtol=1e-5)
    np.testing.assert_allclose(report.bands["recon_l1"].mean, 0.5 / 3)
    assert {f"imagination/{name}_h4" for name in ("mse", "recon_l1")} <= set(found.scalars())
    assert "variance" in report.unit and "off by 0.1667 in the environment" in table(report)
    assert (report.bands["misled_mse"].mean != report.bands["mse"].mean).all()


def test_several_things_are_told_one_by_one() -> None:
    games = [episode(40, seed, shows=Several()) for seed in range(3)]
    found = dreamt(games, horizon=6, drift=2, shows=Several())
    picture, alone = found.reports["pixels"], reported(EPISODES, horizon=6, drift=2)
    assert list(found.reports) == ["state", "pixels", "inner/kinds"]
    for name, band in alone.bands.items():
        np.testing.assert_array_equal(picture.bands[name].mean, band.mean)
    # Two further, one of both choices is wrong.
    np.testing.assert_array_equal(found.reports["inner/kinds"].bands["mse"].mean[0], 0.5)
    tags = found.scalars()
    assert tags["imagination/inner/kinds/mse_h1"] == 0.5 and "imagination/mse_h1" not in tags
    assert tags["imagination/token_accuracy_h1"] == 0 and "imagination/nll" in tags
    assert not any("state/token_accuracy" in tag for tag in tags)
    for entry, report in found.reports.items():
        assert table(report).startswith(f"{entry}:\n") and report.as_dict()["entry"] == entry
        assert report.chart().shape == picture.chart().shape


def test_what_never_changes_draws_and_is_told() -> None:
    games = [episode(40, seed, shows=dreams.Numbers()) for seed in range(3)]
    found = dreamt(games, horizon=4, shows=dreams.Numbers())
    still = {
        name: np.zeros_like(getattr(found.comparison, name))
        for name in ("real", "recon", "dream", "misled")
    }
    c = replace(found.comparison, **still)
    (report,) = reports_of(c, np.arange(30), "").values()
    assert np.isnan(report.bands["mse"].mean).all() and report.chart().any()
    assert report.as_dict()["mse"]["mean"] == [None] * 4 and "nan" in table(report)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    bands = [band_of(rng.exponential(1.0, (50, 1)), np.arange(50)) for _ in range(400)]
    covered = np.mean([b.low[0] <= 1.0 <= b.high[0] for b in bands])
    assert 0.90 < covered < 0.98


def test_windows_of_one_episode_do_not_pass_for_independent_ones() -> None:
    """Few episodes that differ much, windows of each that differ little, not equally many."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(8), [4, 6, 8, 8, 8, 8, 10, 12])
    covered = []
    for _ in range(400):
        rows = 9 + rng.normal(size=8)[of] + 0.1 * rng.normal(size=len(of))
        band = band_of(rows[:, None], of)
        covered.append(band.low[0] <= 9 <= band.high[0])
    assert 0.90 < np.mean(covered) < 0.98
    assert np.isnan(band_of(np.ones((5, 2)), np.zeros(5, int)).low).all()
