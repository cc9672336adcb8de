"""Dreams of models whose answers are known."""

from __future__ import annotations

import io
import json
import math
import resource
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from envs import spaces
from envs.experience import Segment
from envs.trees import named
from runners.dream import dream, log_dreams, main, write_dreams
from runners.errors import UserError
from runners.log import RunLog
from runners.replay import Replay
from runners.rollout import free_dreams, rollout, undisturbed, windows
from runners.settings.config import Config
from runners.settings.options import ImagineOptions
from tests.dreams import (
    EPISODES,
    SIZE,
    Colours,
    FakeAgent,
    Numbers,
    Several,
    drawn,
    dreamt,
    episode,
)
from tests.nets import NUM_ACTIONS, small_agent
from tests.nets import windows as real_windows
from tests.runs import HARDWARE
from worldmodels.protocols import State


def test_pictures_of_dreams_need_no_imagined_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = small_agent("agent.dynamics.layout.kind=token", "agent.view=reconstruction")
    watched = real_windows([(0, 6, 0)] * 2)

    def unseen(state: State, carry: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        return torch.zeros(len(state.tokens), NUM_ACTIONS), torch.zeros(len(state.tokens)), carry

    monkeypatch.setattr(agent, "judge_dream", unseen)
    found = []
    for draws in (True, False):
        monkeypatch.setattr(agent.world_model, "draws", draws)
        with undisturbed(agent, 3):
            compared, free = rollout(agent, watched, 2), free_dreams(agent, watched, 2, 3)
        found.append((compared.dream, compared.misled, free.frames))
    assert found[0][0].shape == (2, 6, 64, 64, 3) and found[0][2].shape == (3, 6, 64, 64, 3)
    for drawn_in_the_dream, drawn_after in zip(*found, strict=True):
        np.testing.assert_array_equal(drawn_in_the_dream, drawn_after)


@pytest.mark.parametrize("shows", [Numbers(), Several()])
def test_a_perfect_model_retraces_whatever_is_shown(shows: Colours) -> None:
    games = [episode(40, seed, shows=shows) for seed in range(3)]
    batch, _ = drawn(games, 3, 5, 20, np.random.default_rng(0))
    agent = FakeAgent(shows=shows)
    with undisturbed(agent, 0):
        c, free = rollout(agent, batch, 3), free_dreams(agent, batch, 3, 4)
    for name, real in named(batch.obs).items():
        np.testing.assert_array_equal(named(c.real)[name], real[:, 1:])
        np.testing.assert_array_equal(named(c.dream)[name], real[:, 1:])
        np.testing.assert_array_equal(named(c.recon)[name], real[:, 1:])
        assert named(c.misled)[name].shape == real[:, 4:].shape
        assert named(free.frames)[name].shape == (4, 8, *real.shape[2:])
    assert c.horizon == 5


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
    # Told what another window did, it goes from the same start to another place.
    steps = (1 + batch.act[:, 3:].roll(1, 0)).cumsum(1) + batch.obs[:, 3:4, 0, 0, 0]
    np.testing.assert_array_equal(c.misled[..., 0, 0, 0], steps)


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
    accuracy = first.reports[""].bands["token_accuracy"].mean
    assert 0 < accuracy[0] < 1


def test_training_logs_clip_grid_chart_and_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    replay = Replay(
        tmp_path / "replay",
        num_streams=1,
        obs=spaces.Image((SIZE, SIZE, 3)),
        act=spaces.Discrete(5),
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
    assert record["imagination/nll"] == pytest.approx(math.log(256))
    assert not any(tag.startswith("imagination/nll_") for tag in record)


def test_training_logs_several_things_by_their_names(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    replay = Replay(
        tmp_path / "replay",
        num_streams=1,
        obs={
            "state": spaces.Vector(3),
            "pixels": spaces.Image((SIZE, SIZE, 3)),
            "inner/kinds": spaces.Categories((4, 2)),
        },
        act=spaces.Discrete(5),
        priorities={"world_model": 1.0},
        seed=0,
    )
    for seed in range(2):
        replay.add(0, episode(40, seed, shows=Several()))
    log = RunLog(tmp_path)
    assert log_dreams(log, FakeAgent(shows=Several(), drift=1), replay, 20, context=5, horizon=15)
    log.close()
    replay.close()
    shown = set(EventAccumulator(str(tmp_path / "tb")).Reload().Tags()["images"])
    charts = {f"imagination/{n}/error_by_horizon" for n in ("state", "pixels", "inner/kinds")}
    assert shown == {"imagination/beside_reality", "imagination/same_start"} | charts
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["imagination/inner/kinds/mse_h1"] == 0.5
    assert record["imagination/state/recon_l1_h15"] == 0
    assert record["imagination/reward_error_h15"] == 1


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

    def play(
        agent: Any, *_: Any, episodes: int, seed: int, keep: int
    ) -> tuple[None, list[Segment]]:
        asked.extend((agent, seed))
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
    assert trained[1] is not None and trained[2] > 1_000_000, "not a seed of training"
    names = ["dream-1.gif", "dream-2.gif", "same-start.gif"]
    assert [f.name for f in files] == names + [
        "horizon.png",
        "horizon.json",
        "horizon.csv",
        "nats.json",
    ]
    for file in files[:4]:
        with Image.open(file) as picture:
            assert getattr(picture, "n_frames", 1) == (11 if file.suffix == ".gif" else 1)
    found = json.loads(files[4].read_text())
    assert found["num_windows"] == 9 and found["source"] == "held-out"
    told = capsys.readouterr().out
    assert str(tmp_path / "media") in told and "copy last frame" in told
    assert "costs 5.55 nats\n" in told
    assert json.loads(files[-1].read_text())["nll"]["mean"] == pytest.approx(math.log(256))


def test_files_of_several_things_are_named_by_them(tmp_path: Path) -> None:
    games = [episode(40, seed, shows=Several()) for seed in range(3)]
    found = dreamt(games, horizon=4, num=3, shows=Several())
    names = [f.name for f in write_dreams(tmp_path, found, clips=1, format="gif", fps=5)]
    each = [
        f"horizon-{n}{end}"
        for n in ("state", "pixels", "inner-kinds")
        for end in (".png", ".json", ".csv")
    ]
    assert names == ["dream-1.gif", "same-start.gif", *each, "nats.json"]
    kinds = json.loads((tmp_path / "horizon-inner-kinds.json").read_text())
    assert kinds["entry"] == "inner/kinds" and kinds["unit"] == "share of wrong entries"


def test_dreams_of_a_vector_are_a_clip_and_a_still(tmp_path: Path) -> None:
    games = [episode(40, seed, shows=Numbers()) for seed in range(3)]
    found = dreamt(games, horizon=4, num=3, shows=Numbers())
    clip, still, *others = write_dreams(tmp_path, found, clips=1, format="apng", fps=5)
    for file, frames in ((clip, 6), (still, 1)):
        with Image.open(file) as picture:
            assert getattr(picture, "n_frames", 1) == frames
    assert [f.name for f in others[:3]] == ["horizon.png", "horizon.json", "horizon.csv"]


def test_random_episodes_are_played_without_the_agent_and_kept_apart(
    tmp_path: Path, trained: list[Any]
) -> None:
    files = main(tmp_path, ImagineOptions(policy="random", windows=9, horizon=6, dreams=2))
    assert files[0].parent.name == "imagine-last-random"
    assert trained[1] is None
    assert json.loads(files[-3].read_text())["source"] == "held-out random"


def test_command_refuses_what_cannot_work(tmp_path: Path, trained: list[Any]) -> None:
    with pytest.raises(UserError, match="horizon=50: .* the longest has 40"):
        main(tmp_path, ImagineOptions(horizon=50))
    assert not (tmp_path / "media").exists()


def test_a_dream_longer_than_memory_without_pictures_is_refused(
    tmp_path: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.dream.longest_dream", lambda agent: 20)
    with pytest.raises(UserError, match="context=5 and horizon=16: .* at most 20 steps"):
        main(tmp_path, ImagineOptions(horizon=16))
    assert main(tmp_path, ImagineOptions(horizon=15, windows=2, dreams=1))


def test_a_full_disk_is_told(tmp_path: Path, trained: list[Any]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(UserError, match=f"cannot write to {tmp_path}.*MiB free"):
            main(tmp_path, ImagineOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
