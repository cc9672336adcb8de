"""Errors by horizon, their files and their intervals."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from runners.horizon import band_of
from tests.dreams import EPISODES, drawn, reported


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
