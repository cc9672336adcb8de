"""Replay: a crash, a full disk or a second reader never costs a committed step."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.experience import Segment
from envs.spaces import Discrete, Image
from runners import replay_store
from runners.errors import UserError
from runners.replay_store import Store
from runners.replay_streams import Stream

SHAPE = (8, 8, 3)


def random_segment(env: int, episode: int, first: int, steps: int, *, end: bool) -> Segment:
    """A stretch of an endless random episode that its two numbers determine."""
    rng = np.random.default_rng((env, episode))
    whole = rng.integers(0, 256, (100, *SHAPE), np.uint8)
    act, rew = rng.integers(0, 17, 100), rng.random(100, np.float32)
    ends = np.arange(first, first + steps) == (first + steps - 1 if end else -1)
    part = slice(first, first + steps)
    frames = whole[first : first + steps + 1]
    return Segment(frames, act[part], rew[part], ends, np.zeros(steps, bool), first=first == 0)


def open_store(folder: Path) -> Store:
    return Store.open(folder, num_streams=2, obs=Image(SHAPE), act=Discrete(17))


def episodes_of(store: Store, env: int) -> list[int]:
    return [episode.index for episode in store.episodes() if episode.env == env]


def grow(store: Store, steps: int = 7) -> None:
    """Every environment goes on for some steps; an episode lasts four such stretches."""
    for env in range(2):
        mine = episodes_of(store, env)
        if store.table.running[env] < 0:
            number, length = len(mine), 0
        else:
            number, length = len(mine) - 1, store.episodes()[mine[-1]].length
        store.append(env, random_segment(env, number, length, steps, end=length >= 3 * steps))


def assert_intact(store: Store) -> None:
    """Every stored step is the one that happened."""
    for env in range(2):
        for number, index in enumerate(episodes_of(store, env)):
            stored = store.episode(index)
            length = len(stored.act)
            true = random_segment(env, number, 0, length, end=length == 28)
            for name in ("obs", "act", "rew", "end", "trunc"):
                assert np.array_equal(getattr(stored, name), getattr(true, name)), name


def steps_of(store: Store) -> int:
    return sum(episode.length for episode in store.episodes())


@pytest.mark.parametrize("committed", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("fault", ["none", "tail", "garbage", "cut record"])
def test_what_was_not_committed_is_cut(tmp_path: Path, committed: int, fault: str) -> None:
    store = open_store(tmp_path)
    for _ in range(committed):
        grow(store)
    store.commit()
    kept = steps_of(store)
    sizes = {file: file.stat().st_size for file in tmp_path.iterdir()}
    if fault == "tail":
        grow(store)
        grow(store)
        store.close_open(1)
    (tmp_path / "manifest.json.tmp").write_text('{"half": ')
    for file in tmp_path.glob("*-*"):
        if fault == "garbage":
            file.write_bytes(file.read_bytes() + random.Random(0).randbytes(5000))
        elif fault == "cut record":
            file.write_bytes(file.read_bytes() + b"abc")
    store.close()
    store = open_store(tmp_path)
    assert steps_of(store) == kept
    assert {file: file.stat().st_size for file in sizes} == sizes
    for _ in range(3):
        grow(store)
        assert_intact(store)
    store.commit()
    assert_intact(open_store(tmp_path))


def test_crash_between_data_and_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(path: Path, text: str) -> None:
        path.with_name(path.name + ".tmp").write_text(text[: len(text) // 2])
        raise KeyboardInterrupt

    store = open_store(tmp_path)
    grow(store)
    store.commit()
    grow(store)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(replay_store, "write_atomic", crash)
        store.commit()
    assert steps_of(Store.read(tmp_path)) == 14
    store.commit()
    assert steps_of(Store.read(tmp_path)) == 28, "a commit may be tried again"
    assert_intact(open_store(tmp_path))


def test_crash_while_going_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    store = open_store(tmp_path)
    grow(store)
    lengths, table = store.lengths, store.table.state_dict()
    grow(store)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Stream, "cut", crash)
        store.cut(lengths, table)
    store = open_store(tmp_path)
    assert steps_of(store) == 14
    grow(store)
    assert_intact(store)


WRITER = """
import sys
from pathlib import Path
from tests.test_replay_crash import assert_intact, grow, open_store, steps_of
store = open_store(Path(sys.argv[1]))
assert_intact(store)
print(steps_of(store), flush=True)
while True:
    grow(store)
    if store.table.running[0] >= 0:
        store.commit()
        print(steps_of(store), flush=True)
"""


def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    moments, known = random.Random(5), 0
    for _ in range(10):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            found = int(writer.stdout.readline())
            assert found >= known, "committed steps are gone"
            time.sleep(moments.uniform(0.0, 0.15))
            writer.kill()
            known = int(([str(found), *writer.stdout.read().split("\n")[:-1]])[-1])
    assert known > 100
    assert_intact(open_store(tmp_path))


def test_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    grow(store)
    store.commit()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (tmp_path / "frames-00.u8").stat().st_size + 500
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
        with pytest.raises(UserError, match=rf"cannot write to {tmp_path}: .* MiB free"):
            grow(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert steps_of(store) == 14
    grow(store)
    store.commit()
    assert_intact(open_store(tmp_path))


def test_reading_beside_a_writer(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    grow(store)
    store.commit()
    grow(store)
    reader = Store.read(tmp_path)
    assert steps_of(reader) == 14
    assert_intact(reader)
    for _ in range(5):
        grow(store)
    assert_intact(store)
    assert_intact(reader)


def test_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no replay in"):
        Store.read(tmp_path)
    store = open_store(tmp_path)
    grow(store)
    store.commit()
    manifest = (tmp_path / "manifest.json").read_text()
    for damaged in ("", "[]", manifest[:-9], manifest.replace('"start": [0', '"start": [3')):
        (tmp_path / "manifest.json").write_text(damaged)
        for opening in (open_store, Store.read):
            with pytest.raises(UserError, match=r"manifest\.json"):
                opening(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest.replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match="another version .*format 1, .*reads 2.*trained anew"):
        Store.read(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    assert_intact(open_store(tmp_path))
    (tmp_path / "steps-01.bin").write_bytes(b"")
    with pytest.raises(UserError, match="stream 01 is shorter"):
        open_store(tmp_path)
