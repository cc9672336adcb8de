"""Replay of any observations and actions: alone, several by name, whole numbers and others."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.experience import Segment
from envs.spaces import (
    ActSpace,
    Categories,
    Continuous,
    Discrete,
    Image,
    MultiDiscrete,
    ObsSpace,
    Space,
    Vector,
)
from envs.trees import each, leaves
from runners.errors import UserError
from runners.replay import Replay
from runners.replay_store import Store
from worldmodels.batch import Batch

SEVERAL: dict[str, ObsSpace] = {
    "arm/pos": Vector(3),
    "arm_pos": Vector(1),
    "kind": Categories((256, 256)),
    "pixels": Image((2, 3, 1)),
}
KINDS: dict[str, tuple[Space, ActSpace]] = {
    "several, continuous": (SEVERAL, Continuous(2)),
    "vector, choices": (Vector(3), MultiDiscrete((256, 256))),
    "categories, choice": (Categories((256,)), Discrete(256)),
    "image, continuous": (Image((2, 3, 1)), Continuous(1)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)

LENGTHS = [12, 4, 3, 1, 9, 6]
ENVS = [0, 1, 1, 1, 0, 1]


def numbers(space: ObsSpace | ActSpace, codes: np.ndarray) -> np.ndarray:
    """Arrays (T,...) of a space that show codes (T,) below 256, each in every number."""
    shown = codes.reshape(-1, *[1] * len(space.shape)) * np.ones(space.shape)
    return (shown / 256 if space.dtype.kind == "f" else shown).astype(space.dtype)


def segment(kind: str, episode: int, begin: int, steps: int, *, end: bool = False) -> Segment:
    """Frame t of an episode shows 1 + 16 * episode + t; the action there is the same code."""
    obs, act = KINDS[kind]
    codes = 1 + 16 * episode + np.arange(begin, begin + steps + 1)
    ends = np.arange(steps) == (steps - 1 if end else -1)
    rew = codes[:-1].astype(np.float32)
    frames = each(lambda space: numbers(space, codes), obs)
    return Segment(
        frames, numbers(act, codes[:-1]), rew, ends, np.zeros(steps, bool), first=begin == 0
    )


def make_replay(folder: Path, kind: str) -> Replay:
    obs, act = KINDS[kind]
    return Replay(folder, num_streams=3, obs=obs, act=act, priorities={"all": 1.0}, seed=3)


def fill(replay: Replay, kind: str) -> None:
    """Episodes of LENGTHS in pieces of up to 5 steps; the last two still run."""
    for episode, (length, env) in enumerate(zip(LENGTHS, ENVS, strict=True)):
        for begin in range(0, length, 5):
            steps = min(5, length - begin)
            end = begin + steps == length and episode < 4
            replay.add(env, segment(kind, episode, begin, steps, end=end))


def same(one: Any, other: Any) -> bool:
    equal = each(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), one, other)
    return all(leaves(equal))


def assert_true(batch: Batch, kind: str) -> None:
    """Rows show stretches of one episode, all entries the same one, and zeros around it."""
    obs, act = KINDS[kind]
    one = leaves(batch.obs)[0].flatten(2)[:, :, 0].double().numpy()
    codes = (one * 256 if one.max() < 1 else one).astype(np.int64)
    seen, valid = batch.seen.numpy(), batch.valid.numpy()
    assert not codes[~seen].any()
    assert (np.diff(codes, axis=1)[valid] == 1).all()
    for space, tensor in zip(leaves(obs), leaves(batch.obs), strict=True):
        shown = numbers(space, codes.reshape(-1)).reshape(tensor.shape)
        assert same(tensor.numpy(), shown)
    taken = codes[:, :-1] * valid
    acts = numbers(act, taken.reshape(-1)).reshape(batch.act.shape)
    assert same(batch.act.numpy(), acts)
    assert same(batch.rew.numpy(), taken.astype(np.float32))


@every_kind
def test_what_goes_in_comes_out(tmp_path: Path, kind: str) -> None:
    replay = make_replay(tmp_path, kind)
    fill(replay, kind)
    for episode, length in enumerate(LENGTHS):
        stored, true = replay.episode(episode), segment(kind, episode, 0, length, end=episode < 4)
        assert same(stored.obs, true.obs) and same(stored.act, true.act)
        assert same(stored.rew, true.rew) and same(stored.end, true.end)
    files = [f.stat().st_size for f in tmp_path.iterdir() if f.name != "manifest.json"]
    assert replay.bytes_on_disk == sum(files)


@every_kind
def test_batches_show_stretches_of_one_episode(tmp_path: Path, kind: str) -> None:
    replay = make_replay(tmp_path, kind)
    fill(replay, kind)
    windows = replay.sample_windows("all", 200, 7)
    assert windows.valid.any(1).all() and not windows.valid.all()
    assert_true(windows, kind)
    starts = replay.sample_starts("all", 200, 5)
    assert starts.seen[:, -1].all()
    assert_true(starts, kind)
    assert all(leaves(each(lambda x: x[:, -1].flatten(1).all(), starts.obs)))


@every_kind
def test_tails_show_the_running_episodes(tmp_path: Path, kind: str) -> None:
    replay = make_replay(tmp_path, kind)
    assert not any(leaves(each(torch.any, replay.tails(3).obs)))
    fill(replay, kind)
    batch = replay.tails(9)
    assert batch.valid.sum(1).tolist() == [8, 6, 0]
    assert all(leaves(each(lambda x: not x[2].any(), batch.obs)))
    assert_true(batch.rows(slice(0, 2)), kind)
    assert batch.rew[:2, -1].tolist() == [16 * 4 + 9, 16 * 5 + 6]


@every_kind
def test_an_earlier_state_is_gone_back_to(tmp_path: Path, kind: str) -> None:
    replay = make_replay(tmp_path, kind)
    fill(replay, kind)
    state = replay.state_dict()
    before = replay.sample_windows("all", 20, 5)
    replay.add(0, segment(kind, 4, 9, 3, end=True))
    replay.add(0, segment(kind, 6, 0, 3))
    replay.commit()
    replay.close()
    again = make_replay(tmp_path, kind)
    assert again.num_episodes == 7
    again.load_state_dict(state)
    assert again.num_episodes == 6
    batch = again.sample_windows("all", 20, 5)
    assert_true(batch, kind)
    assert torch.equal(batch.act, before.act)
    assert all(leaves(each(torch.equal, batch.obs, before.obs)))
    again.add(0, segment(kind, 4, 9, 3, end=True))
    assert same(again.episode(4).obs, segment(kind, 4, 0, 12).obs)


def test_every_entry_has_a_file_with_its_name(tmp_path: Path) -> None:
    make_replay(tmp_path, "several, continuous")
    files = sorted(f.name for f in tmp_path.iterdir() if "-00" in f.name)
    assert files == [
        "frames-00-0-arm_pos.f32",
        "frames-00-1-arm_pos.f32",
        "frames-00-2-kind.i64",
        "frames-00-3-pixels.u8",
        "steps-00.bin",
    ]
    make_replay(tmp_path / "one", "vector, choices")
    assert (tmp_path / "one" / "frames-00.f32").exists()


@every_kind
def test_what_was_not_committed_is_cut(tmp_path: Path, kind: str) -> None:
    replay = make_replay(tmp_path, kind)
    fill(replay, kind)
    replay.commit()
    sizes = {file: file.stat().st_size for file in tmp_path.glob("*-*")}
    replay.add(2, segment(kind, 6, 0, 3))
    replay.close()
    for number, file in enumerate(sizes):
        file.write_bytes(file.read_bytes() + b"abc" * number)
    assert make_replay(tmp_path, kind).num_steps == sum(LENGTHS)
    assert {file: file.stat().st_size for file in sizes} == sizes


def test_a_full_disk_adds_to_no_entry(tmp_path: Path) -> None:
    kind = "several, continuous"
    replay = make_replay(tmp_path, kind)
    replay.add(0, segment(kind, 0, 0, 5))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # Enough for the first entry's eleven frames, too little for those of the third.
        resource.setrlimit(resource.RLIMIT_FSIZE, (11 * 12, old[1]))
        with pytest.raises(UserError, match="cannot write to"):
            replay.add(0, segment(kind, 0, 5, 5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert replay.num_steps == 5
    replay.add(0, segment(kind, 0, 5, 5))
    assert_true(replay.sample_windows("all", 50, 4), kind)
    assert same(replay.episode(0).obs, segment(kind, 0, 0, 10).obs)


def test_a_lost_entry_is_told(tmp_path: Path) -> None:
    kind = "several, continuous"
    replay = make_replay(tmp_path, kind)
    fill(replay, kind)
    replay.commit()
    (tmp_path / "frames-01-2-kind.i64").write_bytes(b"")
    with pytest.raises(UserError, match="stream 01 is shorter"):
        make_replay(tmp_path, kind)


@pytest.mark.parametrize(
    ("obs", "act"),
    [
        (Vector(3), Continuous(2)),
        (dict(reversed(SEVERAL.items())), Continuous(2)),
        ({**SEVERAL, "kind": Categories((256, 255))}, Continuous(2)),
        ({**SEVERAL, "more": Vector(1)}, Continuous(2)),
        (SEVERAL, Continuous(3)),
        (SEVERAL, Discrete(2)),
    ],
)
def test_other_spaces_are_refused(tmp_path: Path, obs: Space, act: ActSpace) -> None:
    make_replay(tmp_path, "several, continuous")
    found = r"holds 3 environments, observations \[arm/pos: vector of 3; .*the settings ask for 3"
    with pytest.raises(UserError, match=found):
        Store.open(tmp_path, num_streams=3, obs=obs, act=act)


def test_a_reader_finds_the_spaces_itself(tmp_path: Path) -> None:
    obs, act = KINDS["several, continuous"]
    replay = make_replay(tmp_path, "several, continuous")
    fill(replay, "several, continuous")
    replay.commit()
    store = Store.read(tmp_path)
    assert store.obs == obs and store.act == act
    assert same(store.episode(4).obs, replay.episode(4).obs)


def test_names_of_actions_may_change(tmp_path: Path) -> None:
    Store.open(tmp_path, num_streams=1, obs=Vector(1), act=Discrete(2, ("left", "right")))
    Store.open(tmp_path, num_streams=1, obs=Vector(1), act=Discrete(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["obs", "act", "rew"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, what: str, bad: float) -> None:
    kind = "several, continuous"
    replay, good = make_replay(tmp_path, kind), segment(kind, 0, 0, 3)
    numbers = good.obs["arm/pos"] if what == "obs" else getattr(good, what)
    numbers[-1] = bad
    with pytest.raises(AssertionError, match="not finite"):
        replay.add(0, good)
    assert replay.num_steps == 0


def test_numbers_of_another_type_are_refused(tmp_path: Path) -> None:
    replay, good = make_replay(tmp_path, "vector, choices"), segment("vector, choices", 0, 0, 3)
    with pytest.raises(AssertionError):
        replay.add(0, replace(good, obs=good.obs.astype(np.float64)))
    with pytest.raises(AssertionError):
        replay.add(0, replace(good, act=good.act[:, 0]))
