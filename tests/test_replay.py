"""Replay: what goes in comes out, from the right place, as often as the design says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.experience import Segment
from envs.spaces import Discrete, Image
from runners import checkpoint
from runners.errors import UserError
from runners.replay import Replay
from worldmodels.batch import Batch

SHAPE = (2, 3, 1)


def make_replay(folder: Path, *, num_streams: int = 2, alpha: float = 1.0, **more: float) -> Replay:
    priorities = {"tokenizer": alpha, "policy": 0.0}
    return Replay(
        folder,
        num_streams=num_streams,
        obs=Image(SHAPE),
        act=Discrete(50),
        priorities=priorities,
        seed=3,
        **more,  # type: ignore[arg-type]
    )


def segment(
    episode: int, begin: int, steps: int, *, end: bool = False, trunc: bool = False
) -> Segment:
    """Steps begin.. of an episode whose frame t shows (episode + 1, t) and whose act t is t."""
    obs = np.zeros((steps + 1, *SHAPE), np.uint8)
    obs[:, 0] = episode + 1
    obs[:, 1] = np.arange(begin, begin + steps + 1)[:, None, None]
    act = np.arange(begin, begin + steps)
    last = np.arange(steps) == steps - 1
    return Segment(
        obs, act, (act / 2).astype(np.float32), last & end, last & trunc, first=begin == 0
    )


def assert_equal(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def assert_true(batch: Batch, lengths: dict[int, int], ends: dict[int, str]) -> None:
    """Every row shows a stretch of one episode, and padding that is black and zero around it."""
    for row in range(len(batch.obs)):
        shown = np.flatnonzero(batch.obs[row, :, 0, 0, 0].numpy())
        valid = np.flatnonzero(batch.valid[row].numpy())
        assert np.array_equal(shown[:-1], valid) and (np.diff(shown) == 1).all()
        assert not batch.obs[row][np.setdiff1d(np.arange(batch.obs.shape[1]), shown)].any()
        (label,) = np.unique(batch.obs[row, shown, 0].numpy())
        (first,) = np.unique(batch.obs[row, shown[0], 1].numpy())
        times = np.arange(first, first + len(shown))
        assert np.array_equal(batch.obs[row, shown, 1, 2, 0].numpy(), times)
        act = np.zeros(batch.act.shape[1], np.int64)
        act[valid] = times[:-1]
        assert np.array_equal(batch.act[row].numpy(), act)
        assert np.array_equal(batch.rew[row].numpy(), act.astype(np.float32) / 2)
        at_end = np.zeros(len(act), bool)
        at_end[valid] = times[1:] == lengths[int(label) - 1]
        how = ends[int(label) - 1]
        assert np.array_equal(batch.end[row].numpy(), at_end & (how == "end"))
        assert np.array_equal(batch.trunc[row].numpy(), at_end & (how == "trunc"))


LENGTHS = {0: 12, 1: 4, 2: 3, 3: 1, 4: 9, 5: 6}
ENDS = {0: "end", 1: "trunc", 2: "", 3: "trunc", 4: "", 5: ""}


def fill(replay: Replay) -> None:
    """The episodes of LENGTHS and ENDS: whole, in pieces, abandoned, closed, still running."""
    replay.add(0, segment(0, 0, 5))
    replay.add(1, segment(1, 0, 4, trunc=True))
    replay.add(1, segment(2, 0, 3))
    replay.add(0, segment(0, 5, 7, end=True))
    replay.add(1, segment(3, 0, 1))
    replay.close_open(1)
    replay.add(0, segment(4, 0, 2))
    replay.add(0, segment(4, 2, 7))
    replay.add(1, segment(5, 0, 6))


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay)
    assert replay.num_episodes == 6 and replay.num_steps == sum(LENGTHS.values())
    assert [e.length for e in replay.episodes()] == list(LENGTHS.values())
    assert [e.index for e in replay.episodes() if e.running] == [4, 5]
    for number, length in LENGTHS.items():
        stored, how = replay.episode(number), ENDS[number]
        true = segment(number, 0, length, end=how == "end", trunc=how == "trunc")
        for field in fields(Segment):
            one, other = getattr(stored, field.name), getattr(true, field.name)
            assert np.array_equal(one, other), (number, field.name)
            assert not isinstance(one, np.ndarray) or one.dtype == other.dtype
    assert replay.bytes_on_disk == sum(
        f.stat().st_size for f in tmp_path.iterdir() if f.name != "manifest.json"
    )


@pytest.mark.parametrize("frames", [2, 3, 7, 21])
def test_windows_are_stretches_of_one_episode(tmp_path: Path, frames: int) -> None:
    replay = make_replay(tmp_path)
    fill(replay)
    batch = replay.sample_windows("policy", 300, frames)
    assert batch.obs.shape == (300, frames, *SHAPE) and batch.act.shape == (300, frames - 1)
    assert batch.obs.dtype == torch.uint8 and batch.act.dtype == torch.int64
    assert batch.rew.dtype == torch.float32 and batch.valid.dtype == torch.bool
    assert batch.valid.any(1).all()
    assert_true(batch, LENGTHS, ENDS)


@pytest.mark.parametrize("context", [0, 1, 5, 20])
def test_starts_are_padded_on_the_left_only(tmp_path: Path, context: int) -> None:
    replay = make_replay(tmp_path)
    fill(replay)
    batch = replay.sample_starts("policy", 300, context)
    assert batch.obs.shape == (300, context + 1, *SHAPE)
    assert batch.obs[:, -1].flatten(1).any(1).all()
    assert not (batch.end.any() or batch.trunc.any())
    assert_true(batch, LENGTHS, ENDS)


def test_tails_show_the_running_episodes(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, num_streams=4)
    assert not replay.tails(3).obs.any()
    fill(replay)
    replay.add(2, segment(6, 0, 4, end=True))
    replay.add(3, segment(7, 0, 0))
    batch = replay.tails(8)
    assert batch.obs[:2, :, 1, 0, 0].tolist() == [[2, 3, 4, 5, 6, 7, 8, 9], [0, *range(7)]]
    assert batch.obs[:, -1, 0, 0, 0].tolist() == [5, 6, 0, 8]
    assert batch.valid.sum(1).tolist() == [7, 6, 0, 0]
    assert batch.act[1].tolist() == [0, *range(6)]
    assert not batch.obs[2].any() and not batch.obs[3, :-1].any()
    assert replay.tails(1).obs[:, 0, 0, 0, 0].tolist() == [5, 6, 0, 8]
    replay.close_open(0)
    assert not replay.tails(8).obs[0].any()


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """In standard deviations above its mean; seeds are fixed, so 4 is never reached by chance."""
    freedom = len(observed) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_start_states_are_uniform_over_the_frames_acted_from(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    replay.add(0, segment(0, 0, 50, end=True))
    replay.add(0, segment(1, 0, 7))
    batch = replay.sample_starts("policy", 40_000, 5)
    label, time = batch.obs[:, -1, 0, 0, 0].numpy(), batch.obs[:, -1, 1, 0, 0].numpy()
    for episode, length in ((0, 50), (1, 7)):
        hits = np.bincount(time[label == episode + 1], minlength=length)
        assert len(hits) == length
        assert chi_square(hits, np.full(length, hits.sum() / length)) < 4


def test_windows_lie_uniformly_around_a_uniform_step(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    length, steps, draws = 30, 6, 60_000
    replay.add(0, segment(0, 0, length, end=True))
    batch = replay.sample_windows("policy", draws, steps + 1)
    padding = (batch.valid.long().argmax(1)).numpy()
    begin = batch.act.gather(1, batch.valid.long().argmax(1, keepdim=True))[:, 0].numpy() - padding
    hits = np.bincount(begin + steps - 1, minlength=length + steps - 1)
    ways = np.convolve(np.ones(length), np.ones(steps))
    assert chi_square(hits, draws * ways / ways.sum()) < 4
    shown = np.bincount(batch.act[batch.valid].numpy(), minlength=length)
    assert shown[0] / shown[length // 2] > 0.5, "first steps are not starved"


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("length_exponent", [0.0, 1.0])
def test_priorities(tmp_path: Path, alpha: float, length_exponent: float) -> None:
    replay = make_replay(tmp_path, alpha=alpha, length_exponent=length_exponent)
    lengths = np.array([2, 5, 9, 3, 4])
    for episode, length in enumerate(lengths):
        replay.add(episode % 2, segment(episode, 0, length, end=True))
    replay.add(0, segment(9, 0, 0))
    state = replay.state_dict()
    counts = np.array([0, 1, 2, 0, 3])
    state["counts"]["tokenizer"][:5] = counts
    replay.load_state_dict(state)
    batch = replay.sample_windows("tokenizer", 50_000, 2, count=False)
    label = batch.obs[:, :, 0, 0, 0].amax(1).numpy() - 1
    weights = (1.0 / (1 + counts)) ** alpha * lengths**length_exponent
    hits = np.bincount(label, minlength=5)
    assert len(hits) == 5, "an episode without a step is never drawn"
    assert chi_square(hits, len(label) * weights / weights.sum()) < 4
    assert replay.state_dict()["counts"]["tokenizer"].tolist() == [*counts, 0]


def test_draws_are_counted_by_component(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, alpha=5.0)
    fill(replay)
    drawn = replay.sample_windows("tokenizer", 40, 3).obs[:, :, 0, 0, 0].amax(1).numpy() - 1
    state = replay.state_dict()
    assert state["counts"]["tokenizer"].tolist() == np.bincount(drawn, minlength=6).tolist()
    assert not state["counts"]["policy"].any()
    replay.sample_starts("policy", 40, 3)
    assert state["counts"]["tokenizer"].sum() == 40, "a state is a copy"
    assert replay.state_dict()["counts"]["policy"].sum() == 40
    replay.close_open(0)
    replay.add(0, segment(6, 0, 3, end=True))
    assert replay.state_dict()["counts"]["tokenizer"].tolist()[-1] == 0
    fresh = replay.sample_windows("tokenizer", 40, 3).obs[:, :, 0, 0, 0].amax(1) == 7
    assert fresh.sum() > 30, "alpha 5 sends nearly all draws to the new episode"


def test_components_share_only_the_random_stream(tmp_path: Path) -> None:
    one, other = make_replay(tmp_path / "a"), make_replay(tmp_path / "b")
    fill(one)
    fill(other)
    for _ in range(3):
        one.sample_windows("policy", 8, 3)
        other.sample_windows("policy", 8, 3, count=False)
    assert_equal(one.sample_windows("tokenizer", 16, 4), other.sample_windows("tokenizer", 16, 4))


def test_equal_states_draw_equal_batches(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay)
    replay.sample_windows("tokenizer", 8, 3)
    state = replay.state_dict()
    first = [replay.sample_windows("tokenizer", 8, 5), replay.sample_starts("policy", 8, 2)]
    replay.add(0, segment(4, 9, 3, end=True))
    replay.add(0, segment(6, 0, 3))
    replay.close_open(1)
    replay.commit()
    again = make_replay(tmp_path)
    assert again.num_episodes == 7
    again.load_state_dict(state)
    assert [e.length for e in again.episodes()] == list(LENGTHS.values())
    assert_equal(first[0], again.sample_windows("tokenizer", 8, 5))
    assert_equal(first[1], again.sample_starts("policy", 8, 2))
    again.add(0, segment(4, 9, 3, end=True))
    assert again.episode(4).end.tolist() == [False] * 11 + [True]


def test_state_survives_a_checkpoint(tmp_path: Path) -> None:
    replay = make_replay(tmp_path / "replay")
    fill(replay)
    replay.sample_windows("tokenizer", 8, 3)
    checkpoint.save(tmp_path / "c", {"replay": replay.state_dict()})
    expected = replay.sample_starts("tokenizer", 8, 3)
    replay.close()
    again = make_replay(tmp_path / "replay")
    again.load_state_dict(checkpoint.load(tmp_path / "c")["replay"])
    assert_equal(expected, again.sample_starts("tokenizer", 8, 3))


def test_clear_forgets_everything(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    fill(replay)
    replay.sample_windows("tokenizer", 8, 3)
    replay.clear()
    assert replay.num_steps == replay.num_episodes == replay.bytes_on_disk == 0
    with pytest.raises(ValueError, match="empty"):
        replay.sample_windows("tokenizer", 8, 3)
    fill(replay)
    assert_true(replay.sample_windows("tokenizer", 50, 5), LENGTHS, ENDS)


def test_a_segment_must_continue_its_episode(tmp_path: Path) -> None:
    replay = make_replay(tmp_path)
    replay.add(0, segment(0, 0, 3))
    with pytest.raises(AssertionError, match="do not join"):
        replay.add(0, segment(0, 4, 3))
    with pytest.raises(AssertionError, match="no running episode"):
        replay.add(1, segment(1, 4, 3))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    state = make_replay(tmp_path).state_dict()
    with pytest.raises(UserError, match="the settings ask for"):
        make_replay(tmp_path, num_streams=3)
    with pytest.raises(UserError, match="settings ask for"):
        make_replay(tmp_path).load_state_dict(state | {"counts": {"other": []}})
    longer = make_replay(tmp_path / "other")
    fill(longer)
    with pytest.raises(UserError, match="does not hold what the checkpoint"):
        make_replay(tmp_path).load_state_dict(longer.state_dict())
