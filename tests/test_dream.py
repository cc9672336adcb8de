"""Dreams of models whose answers are known, on a world that one line describes.

The world's picture has one colour x; action a leads to x + 1 + a and pays a.
"""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from envs.experience import Segment
from runners.dream import dream, log_dreams, main
from runners.errors import UserError
from runners.horizon import HorizonReport, band_of
from runners.log import RunLog
from runners.replay import Replay
from runners.rollout import free_dreams, rollout, undisturbed, windows
from runners.settings.config import Config
from runners.settings.options import ImagineOptions
from tests.runs import HARDWARE
from worldmodels.batch import Batch
from worldmodels.protocols import Prediction, Prev, State

SIZE, ACTIONS = 8, 3


def episode(steps: int, seed: int, start: int = 10) -> Segment:
    rng = np.random.default_rng(seed)
    act = rng.integers(0, ACTIONS, steps)
    colours = start + np.concatenate([[0], np.cumsum(1 + act)])
    obs = np.broadcast_to(colours[:, None, None, None], (steps + 1, SIZE, SIZE, 3))
    end = np.zeros(steps, bool)
    end[-1:] = True
    trunc = np.zeros(steps, bool)
    return Segment(
        obs.astype(np.uint8), act.astype(np.int64), act.astype(np.float32), end, trunc, True
    )


class Colours:
    """One token a frame: its colour."""

    vocab, tokens = 256, 1

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        return obs[..., 0, 0, :1].long()

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        colour = tokens[..., None, None].expand(*tokens.shape[:-1], SIZE, SIZE, 3)
        return colour.to(torch.uint8)


class FakeModel(nn.Module):
    """Predicts x + 1 + a + drift; `noise` adds a random 0 or 1."""

    def __init__(self, drift: int = 0, noise: bool = False, ends_at: int = 999) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.tokenizer = Colours()
        self.drift, self.noise, self.ends_at = drift, noise, ends_at
        self.modes: list[bool] = []

    def start(self, batch: Any) -> State:
        assert bool(batch.valid.all()) and batch.obs.shape[1] == batch.act.shape[1] + 1
        return State(memory=0, obs=batch.obs[:, -1])

    def imagine(self, state: State, act: Tensor) -> tuple[State, Prediction]:
        self.modes.append(self.training)
        x = state.obs[:, 0, 0, 0].long() + 1 + act + self.drift
        if self.noise:
            x = x + torch.randint(0, 2, x.shape)
        tokens, step = x[:, None], state.memory + 1
        ended = torch.full(x.shape, step == self.ends_at)
        prediction = Prediction(
            tokens=tokens,
            logits=torch.zeros(*tokens.shape, 256),
            rew=act.float() + self.drift,
            end=ended,
            end_prob=ended.float(),
        )
        obs = self.tokenizer.decode(Prev(state.obs, act), tokens)
        return State(memory=step, obs=obs), prediction


class FakeAgent(nn.Module):
    """Values a frame at its colour; always picks action 2."""

    def __init__(self, **model: Any) -> None:
        super().__init__()
        self.world_model: Any = FakeModel(**model)

    def watch(self, batch: Any) -> int:
        return int(batch.act.shape[1])

    def judge(self, obs: Tensor, carry: int) -> tuple[Tensor, Tensor, int]:
        logits = torch.tensor([-99.0, -99.0, 99.0]).expand(len(obs), ACTIONS)
        return logits, obs[:, 0, 0, 0].float(), carry + 1


EPISODES = [episode(40, seed) for seed in range(3)]


def drawn(*arguments: Any) -> tuple[Batch, np.ndarray]:
    found = windows(*arguments)
    assert found is not None
    return found


def reported(
    episodes: Sequence[Segment] = EPISODES, *, horizon: int, drift: int = 0
) -> HorizonReport:
    dreamt = dream(
        FakeAgent(drift=drift),
        episodes,
        context=2,
        horizon=horizon,
        num=30,
        seed=0,
        source="made-up",
        dreams=1,
    )
    assert dreamt is not None
    return dreamt.report


def test_windows_are_distinct_stretches_of_one_episode() -> None:
    short, exact = episode(6, 1, start=100), episode(7, 2, start=150)
    rng = np.random.default_rng(0)
    batch, of = drawn([short, exact, EPISODES[0]], 3, 4, 999, rng)
    assert batch.obs.shape == (1 + 34, 8, SIZE, SIZE, 3) and of.tolist() == [1] + [2] * 34
    x = batch.obs[:, :, 0, 0, 0].long()
    assert bool((x.diff(dim=1) == 1 + batch.act).all()) and bool((batch.rew == batch.act).all())
    assert int(batch.end.sum()) == 2 and bool((batch.end.sum(1) == batch.end[:, -1]).all())
    assert len(drawn(EPISODES, 3, 4, 5, rng)[0].act) == 5
    assert windows([short], 3, 4, 5, rng) is None
    assert windows([], 3, 4, 5, rng) is None


def test_windows_are_spread_over_episodes() -> None:
    rng = np.random.default_rng(0)
    games = [episode(9, 0), episode(40, 1), episode(1000, 2)]
    _, of = drawn(games, 3, 4, 24, rng)
    assert np.bincount(of).tolist() == [3, 10, 11] or np.bincount(of).tolist() == [3, 11, 10]
    firsts = [drawn(games, 3, 4, 1, rng)[1][0] for _ in range(60)]
    assert np.bincount(firsts).min() > 8
    begins = [drawn([games[2]], 3, 4, 1, rng)[0].rew[0] for _ in range(20)]
    assert len({tuple(row.tolist()) for row in begins}) > 15


def test_a_perfect_model_retraces_reality() -> None:
    agent = FakeAgent()
    batch, _ = drawn(EPISODES, 3, 5, 20, np.random.default_rng(0))
    with undisturbed(agent, 0):
        c = rollout(agent, batch, 3)
    assert c.num_seen == 3 and c.horizon == 5
    np.testing.assert_array_equal(c.real, batch.obs[:, 1:])
    np.testing.assert_array_equal(c.dream, c.real)
    np.testing.assert_array_equal(c.recon, c.real)
    assert np.isnan(c.rew_pred[:, :3]).all() and np.isnan(c.end_prob[:, :3]).all()
    np.testing.assert_array_equal(c.rew_pred[:, 3:], c.rew_true[:, 3:])
    assert np.isnan(c.value[:, :2]).all()
    np.testing.assert_array_equal(c.value[:, 2:], c.real[:, 2:, 0, 0, 0])
    np.testing.assert_array_equal(c.token_accuracy, 1.0)


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


def test_free_dreams_follow_the_policy_and_count_until_the_end() -> None:
    agent = FakeAgent(ends_at=3)
    batch, _ = drawn(EPISODES, 2, 5, 4, np.random.default_rng(0))
    with undisturbed(agent, 0):
        free = free_dreams(agent, batch, 2, num=6)
    assert free.frames.shape == (6, 7, SIZE, SIZE, 3)
    start = int(batch.obs[0, 2, 0, 0, 0])
    np.testing.assert_array_equal(
        free.frames[:, 1:, 0, 0, 0], np.tile(start + 3 * np.arange(6), (6, 1))
    )
    np.testing.assert_array_equal(free.returns[0], [0, 0, 2, 4, 6, 6, 6])
    np.testing.assert_array_equal(free.ended[0], [0, 0, 0, 0, 0, 1, 1])


def test_dreaming_leaves_no_trace() -> None:
    agent = FakeAgent(noise=True)
    agent.world_model.eval()
    agent.train(True)
    agent.world_model.training = False
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = dream(agent, EPISODES, context=2, horizon=4, num=9, dreams=2, seed=7, source="")
    np.testing.assert_array_equal(torch.rand(3), expected)
    second = dream(agent, EPISODES, context=2, horizon=4, num=9, dreams=2, seed=7, source="")
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.comparison.dream, second.comparison.dream)
    assert agent.training and not agent.world_model.training
    assert not any(agent.world_model.modes)
    accuracy = first.report.bands["token_accuracy"].mean
    assert 0 < accuracy[0] < 1


def test_training_logs_clip_grid_chart_and_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    replay = Replay(
        tmp_path / "replay",
        num_streams=1,
        obs_shape=(SIZE, SIZE, 3),
        priorities={"world_model": 1.0},
        seed=0,
    )
    log = RunLog(tmp_path)
    replay.add(0, episode(4, 9))
    assert not log_dreams(log, FakeAgent(), replay, 10, context=5, horizon=15)
    for segment in EPISODES:
        replay.add(0, segment)
    before = replay.state_dict()["rng"]
    assert log_dreams(log, FakeAgent(), replay, 20, context=5, horizon=15)
    assert replay.state_dict()["rng"] == before
    log.close()
    replay.close()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert set(events.Tags()["images"]) == {
        "imagination/beside_reality",
        "imagination/error_by_horizon",
        "imagination/same_start",
    }
    (clip,) = events.Images("imagination/beside_reality")
    picture: Any = Image.open(io.BytesIO(clip.encoded_image_string))
    assert picture.n_frames == 20
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["step"] == 20 and record["imagination/mse_h15"] == 0
    assert record["imagination/copy_mse_h15"] > record["imagination/copy_mse_h1"] > 0


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands for a trained run; gives the list of what was asked of it."""
    asked: list[Any] = []

    def load_agent(run_dir: Path, checkpoint: str, device: str) -> Any:
        asked.append((run_dir, checkpoint, device))
        config = Config(seed=1, threads=1)
        return SimpleNamespace(agent=FakeAgent(drift=1), config=config, hardware=HARDWARE)

    def open_env(config: Config, *, num_envs: int, workers: int, training: bool) -> Any:
        assert config.env.suite == "crafter" and not training
        return SimpleNamespace(close=lambda: asked.append("closed"))

    def play(*_: Any, episodes: int, seed: int, keep: int) -> tuple[None, list[Segment]]:
        asked.append(seed)
        return None, EPISODES

    for name, functions in (
        ("runners.opening", (load_agent, open_env)),
        ("runners.evaluate", (play,)),
    ):
        module = ModuleType(name)
        for function in functions:
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_command_writes_files_and_says_where(
    tmp_path: Path, trained: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    files = main(tmp_path, ImagineOptions(clips=2, windows=9, dreams=3, format="gif", horizon=6))
    assert trained[0] == (tmp_path, "last", "auto") and trained[-1] == "closed"
    assert trained[1] > 1_000_000, "not a seed of training"
    names = ["dream-1.gif", "dream-2.gif", "same-start.gif"]
    assert [f.name for f in files] == names + ["horizon.png", "horizon.json", "horizon.csv"]
    for file in files[:4]:
        with Image.open(file) as picture:
            assert getattr(picture, "n_frames", 1) == (11 if file.suffix == ".gif" else 1)
    found = json.loads(files[4].read_text())
    assert found["num_windows"] == 9 and found["source"] == "held-out"
    told = capsys.readouterr().out
    assert str(tmp_path / "media") in told and "copy last frame" in told


def test_command_refuses_what_cannot_work(tmp_path: Path, trained: list[Any]) -> None:
    with pytest.raises(UserError, match="horizon=50: .* the longest has 40"):
        main(tmp_path, ImagineOptions(horizon=50))
    assert not (tmp_path / "media").exists()


def test_a_full_disk_is_told(tmp_path: Path, trained: list[Any]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(UserError, match=f"cannot write to {tmp_path}.*MiB free"):
            main(tmp_path, ImagineOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
