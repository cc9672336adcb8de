"""Evaluation: unbiased, repeatable, no trace in training, and written with its protocol."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.make import make_env
from envs.probes import CountingGame
from runners import cli
from runners.evaluate import play
from runners.opening import new_agent
from runners.run_folder import read_summary
from runners.scoring import interval
from runners.train import main
from tests.runs import HARDWARE, games, small

VARIED = functools.partial(CountingGame, 3, 40, size=64, num_actions=5)


def test_quick_games_are_not_preferred() -> None:
    """The mean length over environments' shares is that of all games, not of the quickest."""
    told: list[int] = []
    evaluation, _ = play(None, games(VARIED, 16), HARDWARE, episodes=40, seed=0, watch=told.append)
    shares = np.bincount([game.env for game in evaluation.games], minlength=16)
    assert shares.tolist() == [3] * 8 + [2] * 8
    assert told[0] == 0 and told[-1] == 40 and sorted(told) == told
    many = [play(None, games(VARIED, 16), HARDWARE, episodes=40, seed=s)[0] for s in range(40)]
    lengths = np.array([game.length for e in many for game in e.games])
    assert abs(lengths.mean() - (3 + 19.5)) < 4 * lengths.std() / len(lengths) ** 0.5


def test_a_seed_repeats_the_games_of_an_agent_and_training_does_not_notice() -> None:
    agent = new_agent(small(), VARIED().spec, HARDWARE)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in agent.state_dict().items()}

    def actions(seed: int) -> list[int]:
        _, segments = play(agent, games(VARIED), HARDWARE, episodes=4, seed=seed, keep=3)
        return [int(act) for segment in segments for act in segment.act]

    assert actions(1) == actions(1) != actions(2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in agent.state_dict().items())


def test_kept_games_are_whole() -> None:
    evaluation, segments = play(None, games(VARIED), HARDWARE, episodes=5, seed=1, keep=2)
    assert len(evaluation.games) == 5 and len(segments) == 2
    for segment in segments:
        assert segment.first and segment.end[-1] and len(segment.obs) == len(segment.act) + 1
        assert segment.obs[:, 0, 0, 1].tolist() == list(range(len(segment.obs)))


def test_what_watch_raises_ends_the_evaluation() -> None:
    def stop(played: int) -> None:
        raise KeyboardInterrupt

    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        play(None, games(VARIED), HARDWARE, episodes=4, seed=0, watch=stop)
    assert torch.equal(before, torch.get_rng_state())


def test_random_actions_on_crafter_score_as_known() -> None:
    """1.38 over many episodes; one episode has a standard deviation of about 1.3."""
    env = make_env({"suite": "crafter"}, num_envs=16)
    evaluation, _ = play(None, env, HARDWARE, episodes=64, seed=5)
    summary = evaluation.summary()
    assert abs(summary["return"] - 1.38) < 0.7
    assert summary["return_ci_low"] < summary["return"] < summary["return_ci_high"]
    assert 120 < summary["length"] < 250


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    low, high = interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval(np.array([3.0])) == (3.0, 3.0)
    assert interval(values) == (low, high)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = [low < 0 < high for low, high in (interval(rng.normal(size=40)) for _ in range(100))]
    assert 86 <= sum(hits) <= 100


def test_the_command_plays_fresh_games_and_writes_its_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("run.steps=30", "run.eval_episodes=4", "env.length=60")
    run = main(small(f"root={tmp_path}", *few, "agent.behaviour.eval_temperature=0.25"))
    capsys.readouterr()
    assert cli.main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out and "Crafter score" in out and "collect wood" in out
    file = run / "eval" / "0000031-agent-4episodes.json"
    assert f"Written to {file}" in out
    record = json.loads(file.read_text())
    assert record["steps"] == 30 and len(record["games"]) == record["episodes"] == 4
    assert record["protocol"] == {
        "env": "crafter",
        "suite": "crafter",
        "length": 60,
        "environments": 2,
        "seed": 3_000_017,
        "games_chose_best": False,
        "temperature": 0.25,
    }
    assert cli.main(["evaluate", str(run), "seed=2000003"]) == 0
    again = json.loads((file.parent / "0000031-agent-4episodes-seed2000003.json").read_text())
    assert again["return"] == read_summary(run)["last_return"]
    assert again["protocol"]["games_chose_best"]
    assert again["games"] != record["games"]
    assert cli.main(["evaluate", str(run), "temperature=0.5"]) == 0
    cool = json.loads((file.parent / "0000031-agent-4episodes-temperature0.5.json").read_text())
    assert cool["protocol"]["temperature"] == 0.5
    assert record["versions"]["packages"]["torch"]
    words = ["policy=random", "episodes=3", "seed=9", "checkpoint=best"]
    assert cli.main(["evaluate", str(run), *words]) == 0
    random = json.loads((run / "eval" / "0000031-random-3episodes-seed9.json").read_text())
    assert random["protocol"]["temperature"] is None and random["protocol"]["seed"] == 9
    assert [game["length"] for game in random["games"]] == [60] * 3
    assert cli.main(["evaluate", str(run), "temperature=0"]) == 2
