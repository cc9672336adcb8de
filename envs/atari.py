"""Atari games by the Atari-100k protocol, straight on the Arcade Learning Environment.

Gymnasium's Atari classes are not used: they reset the game on a lost life or add stickiness.
"""

from __future__ import annotations

from typing import Literal, SupportsIndex

import ale_py
import ale_py.roms
import numpy as np
from PIL import Image as Picture

from envs.base import Outcome
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image

SIZE = 64


def _row_weights() -> tuple[np.ndarray, np.ndarray]:
    """For each output row, the five input rows from its first and their weights in 1/105."""
    # A screen is 210 x 160: one output row covers 105/32 input rows, one column 5/2.
    rows = 105 * np.arange(SIZE) // 32 + np.arange(5)[:, None]
    top, bottom = 105 * np.arange(SIZE), 105 * np.arange(1, SIZE + 1)
    overlap = np.minimum(bottom, 32 * (rows + 1)) - np.maximum(top, 32 * rows)
    return np.minimum(rows, 209), np.maximum(overlap, 0).astype(np.uint16)[..., None]


_ROWS, _ROW_WEIGHTS = _row_weights()
# Five RGB pixels side by side make two, with weights in 1/5.
_COLUMNS = np.kron([[2, 0], [2, 0], [1, 1], [0, 2], [0, 2]], np.eye(3)).astype(np.float32)


def resize_area(screen: np.ndarray) -> np.ndarray:
    """Area-average a screen (210,160,3) to (64,64,3), correctly rounded, as OpenCV's INTER_AREA.

    Weights are whole numbers, so the sums are exact whatever their order, and dividing by
    the odd 105 * 5 never meets a tie.
    """
    wide = screen.reshape(210, 480).astype(np.uint16)
    total = wide[_ROWS[0]] * _ROW_WEIGHTS[0]
    for rows, weights in zip(_ROWS[1:], _ROW_WEIGHTS[1:], strict=True):
        total += wide[rows] * weights
    sums = total.astype(np.float32).reshape(SIZE * 32, 15) @ _COLUMNS
    return (sums * np.float32(1 / 525) + np.float32(0.5)).astype(np.uint8).reshape(SIZE, SIZE, 3)


def resize_bilinear(screen: np.ndarray) -> np.ndarray:
    """Pillow's bilinear reduction of a screen (210,160,3) to (64,64,3)."""
    return np.asarray(Picture.fromarray(screen).resize((SIZE, SIZE), Picture.Resampling.BILINEAR))


RESIZES = {"area": resize_area, "bilinear": resize_bilinear}


class AtariGame:
    """One Atari game: skip, maximum over the last two raw frames, 64x64 RGB, minimal actions.

    A reset plays 1..noop_max no-ops (none for 0). With `life_loss`, a lost life sets `end`
    and the game goes on. `max_frames` raw frames, no-ops included, truncate it. With
    probability `sticky` a raw frame repeats the action of the raw frame before it. Rewards
    are not clipped. Where a game ends before the last frame of a skip, its last frame is
    shown alone.
    """

    def __init__(
        self,
        game: str,
        *,
        frame_skip: int = 4,
        noop_max: int = 30,
        sticky: float = 0.0,
        resize: Literal["area", "bilinear"] = "area",
        life_loss: bool = True,
        max_frames: int = 108_000,
    ) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setInt("random_seed", 0)
        self._ale.setFloat("repeat_action_probability", 0.0)
        rom = ale_py.roms.get_rom_path(game)
        assert rom is not None, f"no ROM for {game}"
        self._ale.loadROM(rom)
        self._ale.reset_game()
        self._pristine = self._ale.cloneState(include_rng=True)
        self._acts = self._ale.getMinimalActionSet()
        names = tuple(act.name.lower() for act in self._acts)
        self.spec = EnvSpec(Image((SIZE, SIZE, 3)), Discrete(len(names), names), frame_skip)
        self._skip, self._noop_max, self._sticky = frame_skip, noop_max, sticky
        self._resize, self._life_loss, self._max_frames = RESIZES[resize], life_loss, max_frames
        self._first = self._ale.getScreenRGB()
        self._screen, self._older = np.empty_like(self._first), np.empty_like(self._first)
        self._random = np.random.default_rng(0)
        self._raw_act = ale_py.Action.NOOP
        self._frames = self._lives = 0

    def reset(self, seed: int) -> np.ndarray:
        self._random = np.random.default_rng(seed)
        self._restart()
        noops = int(self._random.integers(1, self._noop_max + 1)) if self._noop_max else 0
        for _ in range(noops):
            self._act_raw(ale_py.Action.NOOP)
            if self._ale.game_over():
                self._restart()
        self._lives = self._ale.lives()  # garbage before the no-ops in some games
        screen = self._ale.getScreenRGB() if self._frames else self._first
        return self._resize(screen)

    def step(self, act: SupportsIndex) -> Outcome:
        rew, reads = 0.0, 0
        for i in range(self._skip):
            rew += self._act_raw(self._acts[act])
            over = self._ale.game_over()
            trunc = not over and self._frames >= self._max_frames
            if i >= self._skip - 2 or over or trunc:
                self._screen, self._older = self._older, self._screen
                self._ale.getScreenRGB(self._screen)
                reads += 1
            if over or trunc:
                break
        if reads == 2:
            np.maximum(self._screen, self._older, out=self._screen)
        lives = self._ale.lives()
        # A counter that reaches 0 is no sign of a lost life: BankHeist plays its last one with 0.
        lost_life = self._life_loss and 0 < lives < self._lives
        self._lives = lives
        obs = self._resize(self._screen)
        return Outcome(
            obs, rew, end=over or (lost_life and not trunc), trunc=trunc, over=over or trunc
        )

    def close(self) -> None:
        pass

    def _restart(self) -> None:
        """Bring the machine to the state it had after loading.

        Both calls are needed. A reset leaves memory of the games before it (KungFuMaster,
        Seaquest), a restored state leaves video registers (Amidar, Qbert).
        """
        self._ale.reset_game()
        self._ale.restoreState(self._pristine)
        self._frames, self._raw_act = 0, ale_py.Action.NOOP

    def _act_raw(self, act: ale_py.Action) -> float:
        if not (self._sticky and self._random.random() < self._sticky):
            self._raw_act = act
        self._frames += 1
        return float(self._ale.act(self._raw_act))
