"""Crafter is the original game: same worlds, frames and rules; only faster and repeatable."""

from __future__ import annotations

import collections
import hashlib
import os
import subprocess
import sys
from typing import Any

import crafter
import numpy as np
import pytest

from envs.crafter import CrafterGame
from envs.crafter_world import OrderedChunk
from envs.experience import EnvSpec
from envs.scores import ACHIEVEMENTS
from envs.spaces import Discrete, Image


def original(seed: int, length: int = 10_000) -> Any:
    """The installed package's own environment, but for the order within its chunks."""
    env = crafter.Env(seed=seed, length=length)
    reset = env._world.reset

    def ordered_reset(seed: int | None = None) -> None:
        reset(seed)
        env._world._chunks = collections.defaultdict(OrderedChunk)

    env._world.reset = ordered_reset
    return env


def policy(seed: int, bias: str, steps: int) -> list[int]:
    """Random actions with a habit: sleeping, doing, or walking left to the edge of the world."""
    random = np.random.default_rng(seed)
    habit = crafter.constants.actions.index(bias)
    acts = random.integers(17, size=steps)
    return np.where(random.random(steps) < 0.4, habit, acts).tolist()


def keep_alive(player: Any) -> None:
    player.inventory.update(health=9, wood=9, stone=9, coal=9, iron=9, sapling=9)


@pytest.mark.parametrize(
    ("seed", "bias", "immortal"),
    [(0, "sleep", True), (2, "do", True), (9, "move_left", True), (3, "do", False)],
)
def test_frames_and_rules_are_the_originals(seed: int, bias: str, immortal: bool) -> None:
    theirs, ours = original(seed), CrafterGame()
    assert np.array_equal(theirs.reset(), ours.reset(seed))
    nights = asleep = 0
    for act in policy(seed, bias, 500):
        if immortal:
            keep_alive(theirs._player)
            keep_alive(ours._sim._player)
        obs, rew, over, info = theirs.step(act)
        outcome = ours.step(act)
        assert np.array_equal(obs, outcome.obs)
        assert (rew, over, info["discount"] == 0) == (outcome.rew, outcome.over, outcome.end)
        nights += theirs._world.daylight < 0.5
        asleep += theirs._player.sleeping
        if over:
            counts = {f"achievement/{k}": v for k, v in info["achievements"].items()}
            assert outcome.stats == counts and outcome.end and not outcome.trunc
            break
    assert over != immortal
    if immortal:
        assert nights > 150
        assert np.array_equal(theirs._world._mat_map, ours._sim._world._mat_map)
        assert theirs._world.random.random_sample() == ours._sim._world.random.random_sample()
    if bias == "sleep":
        assert asleep > 20
    if bias == "move_left":
        assert ours._sim._player.pos[0] < 4, "the outside of the world was not seen"


def test_worlds_are_the_originals() -> None:
    ours = CrafterGame()
    for seed in range(10, 22):
        theirs = original(seed)
        assert np.array_equal(theirs.reset(), ours.reset(seed))
        a, b = theirs._world, ours._sim._world
        assert np.array_equal(a._mat_map, b._mat_map)
        assert np.array_equal(a._obj_map, b._obj_map)
        assert [type(x) for x in a.objects] == [type(x) for x in b.objects]
        assert list(a._chunks) == list(b._chunks)


def test_the_time_limit_truncates() -> None:
    game = CrafterGame(length=12)
    game.reset(0)
    outcomes = [game.step(0) for _ in range(12)]
    assert not any(outcome.over for outcome in outcomes[:-1])
    assert outcomes[-1].trunc and outcomes[-1].over and not outcomes[-1].end
    assert set(outcomes[-1].stats) == {f"achievement/{name}" for name in ACHIEVEMENTS}


def test_spec() -> None:
    spec = CrafterGame().spec
    assert spec == EnvSpec(Image((64, 64, 3)), Discrete(17, tuple(crafter.constants.actions)), 1)
    assert crafter.constants.actions[:2] == ["noop", "move_left"]
    assert tuple(crafter.constants.achievements) == ACHIEVEMENTS


def trajectory_hash() -> str:
    digest = hashlib.sha256()
    game = CrafterGame()
    for seed in (5, 6):
        digest.update(game.reset(seed).tobytes())
        for act in policy(seed, "noop", 400):
            keep_alive(game._sim._player)
            digest.update(game.step(act).obs.tobytes())
    return digest.hexdigest()


def test_two_processes_play_the_same_game() -> None:
    code = "from tests.test_envs_crafter import trajectory_hash; print(trajectory_hash())"
    command = [sys.executable, "-c", code]
    hashes = [subprocess.check_output(command, text=True).strip() for _ in range(2)]
    assert hashes == [trajectory_hash()] * 2


def world_hash() -> str:
    game = CrafterGame()
    frame = game.reset(31)
    return hashlib.sha256(frame.tobytes() + game._sim._world._mat_map.tobytes()).hexdigest()


def test_worlds_are_the_same_without_numba() -> None:
    code = "from tests.test_envs_crafter import world_hash; print(world_hash())"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert output.strip() == world_hash()
