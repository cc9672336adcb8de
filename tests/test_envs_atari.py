"""Atari follows the Atari-100k protocol, and a seed fixes a game whatever was played before."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Any

import ale_py
import numpy as np
import pytest

from envs.atari import AtariGame, resize_area, resize_bilinear
from envs.scores import list_games
from envs.spaces import random_action


@cache
def weights(n: int, m: int) -> np.ndarray:
    """How much of each of n input pixels lies in each of m output pixels, as OpenCV does it."""
    scale = n / m
    overlap = np.zeros((m, n), np.float32)
    for i in range(m):
        low, high = i * scale, (i + 1) * scale
        for j in range(int(low), min(n, math.ceil(high))):
            overlap[i, j] = max(0.0, min(high, j + 1) - max(low, j))
    return overlap / overlap.sum(1, keepdims=True)


def slow_area(screen: np.ndarray) -> np.ndarray:
    rows = np.tensordot(weights(210, 64), screen.astype(np.float64), axes=(1, 0))
    mean = np.tensordot(rows, weights(160, 64), axes=(1, 1)).transpose(0, 2, 1)
    return np.rint(mean).astype(np.uint8)


class PlainBreakout:
    """The protocol spelled out: every raw frame is read, nothing is shared between games."""

    def __init__(self, seed: int, life_loss: bool) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        rom = ale_py.roms.get_rom_path("breakout")
        assert rom is not None
        self.ale.loadROM(rom)
        self.ale.reset_game()
        self.life_loss = life_loss
        for _ in range(np.random.default_rng(seed).integers(1, 31)):
            self.ale.act(0)
        self.first = slow_area(self.ale.getScreenRGB())

    def step(self, act: int) -> tuple[np.ndarray, float, bool, bool]:
        lives, frames, rew = self.ale.lives(), [], 0.0
        for _ in range(4):
            rew += self.ale.act(self.ale.getMinimalActionSet()[act])
            frames.append(self.ale.getScreenRGB())
            if self.ale.game_over():
                break
        over = self.ale.game_over()
        frame = frames[-1] if len(frames) < 4 else np.maximum(frames[-1], frames[-2])
        lost_life = self.life_loss and self.ale.lives() < lives
        return slow_area(frame), rew, over or lost_life, over


@pytest.mark.parametrize("life_loss", [True, False])
def test_breakout_follows_the_protocol(life_loss: bool) -> None:
    game = AtariGame("breakout", life_loss=life_loss, resize="area")
    random = np.random.default_rng(0)
    for seed in (3, 4):
        plain = PlainBreakout(seed, life_loss)
        assert np.array_equal(game.reset(seed), plain.first)
        ends, ret, over = 0, 0.0, False
        while not over:
            act = int(random.integers(4))
            obs, rew, end, over = plain.step(act)
            outcome = game.step(act)
            assert np.array_equal(outcome.obs, obs)
            assert (outcome.rew, outcome.end, outcome.over) == (rew, end, over)
            assert not outcome.trunc
            ends += end
            ret += rew
        assert ends == (5 if life_loss else 1)
        assert ret > 0


def play(game: AtariGame, seed: int, steps: int) -> str:
    digest = hashlib.sha256(game.reset(seed).tobytes())
    random = np.random.default_rng(seed)
    for _ in range(steps):
        outcome = game.step(random_action(game.spec.act, random))
        digest.update(outcome.obs.tobytes())
        digest.update(repr((outcome.rew, outcome.end, outcome.trunc, outcome.over)).encode())
        if outcome.over:
            break
    return digest.hexdigest()


@pytest.mark.parametrize("name", list_games())
def test_every_game_repeats_from_its_seed(name: str) -> None:
    game = AtariGame(name)
    first = play(game, 1, 60)
    others = {play(game, seed, 250) for seed in (2, 3)}
    assert len(others) == 2
    assert play(game, 1, 60) == first
    assert play(AtariGame(name), 1, 60) == first


def test_action_sets_are_minimal() -> None:
    names = ("freeway", "breakout", "alien")
    acts: dict[str, Any] = {name: AtariGame(name).spec.act for name in names}
    assert {name: act.n for name, act in acts.items()} == {"freeway": 3, "breakout": 4, "alien": 18}
    assert acts["breakout"].names == ("noop", "fire", "right", "left")
    assert AtariGame("breakout", frame_skip=2).spec.frames_per_step == 2


def test_the_frame_cap_truncates() -> None:
    game = AtariGame("pong", noop_max=0, max_frames=42)
    game.reset(0)
    outcomes = [game.step(0) for _ in range(11)]
    assert not any(outcome.over for outcome in outcomes[:-1])
    assert outcomes[-1].trunc and outcomes[-1].over and not outcomes[-1].end
    assert game._ale.getEpisodeFrameNumber() == 42


def test_no_ops_shift_the_start() -> None:
    game = AtariGame("breakout")
    frames = set()
    for seed in range(60):
        game.reset(seed)
        frames.add(game._frames)
    assert min(frames) >= 1 and max(frames) <= 30 and len(frames) > 20
    untouched = AtariGame("breakout", noop_max=0)
    assert np.array_equal(untouched.reset(0), untouched.reset(1))


def test_sticky_actions_repeat_from_the_seed() -> None:
    def positions(sticky: float, seed: int) -> str:
        return play(AtariGame("breakout", sticky=sticky, noop_max=1), seed, 60)

    assert positions(0.25, 1) == positions(0.25, 1)
    assert positions(0.25, 1) != positions(0.0, 1)


def real_screens() -> list[Any]:
    game = AtariGame("ms_pacman")
    game.reset(0)
    screens = [np.random.default_rng(0).integers(0, 256, (210, 160, 3)).astype(np.uint8)]
    for _ in range(30):
        game.step(2)
        screens.append(game._ale.getScreenRGB())
    return screens


def test_area_resize_is_exact() -> None:
    for screen in real_screens():
        assert np.array_equal(resize_area(screen), slow_area(screen))


def test_bilinear_resize_differs_a_little() -> None:
    screen = real_screens()[-1]
    small = resize_bilinear(screen)
    assert small.shape == (64, 64, 3) and small.dtype == np.uint8
    assert 0 < np.abs(small.astype(int) - resize_area(screen)).mean() < 5
