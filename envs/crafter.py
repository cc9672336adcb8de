"""Crafter (Hafner 2021), its trajectories fixed by the seed and computed several times faster.

The rules are the installed package's own. Replaced are the containers that made it depend on
memory addresses, and world generation, drawing and the loop over objects, with equal results.
"""

from __future__ import annotations

from typing import SupportsIndex

import crafter
import numpy as np
from crafter import constants, objects

from envs.base import Outcome
from envs.crafter_view import SIZE, TileView
from envs.crafter_world import OrderedWorld, generate
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image

# Objects this far from the player (sum of both axes) stand still: twice the view.
_ACTIVE_DISTANCE = 18


class CrafterGame:
    """One game of Crafter. Its world is that of the first episode of `crafter.Env(seed=seed)`.

    Death terminates, `length` steps truncate. `Outcome.stats` counts how often each of the
    22 achievements was done, as `achievement/<name>`.
    """

    def __init__(self, length: int = 10_000) -> None:
        self.spec = EnvSpec(
            Image((SIZE, SIZE, 3)), Discrete(len(constants.actions), tuple(constants.actions))
        )
        self._sim = _Simulator(length)

    def reset(self, seed: int) -> np.ndarray:
        return self._sim.start(seed)

    def step(self, act: SupportsIndex) -> Outcome:
        return self._sim.act(act)

    def close(self) -> None:
        pass


class _Simulator(crafter.Env):  # type: ignore[misc]
    """Crafter's environment, for its rule of spawning and despawning and its daylight."""

    def __init__(self, length: int) -> None:
        super().__init__(length=length, seed=0)
        self._world = OrderedWorld(self._area, constants.materials, (12, 12))
        self._draw = TileView(self._world, self._textures)

    def start(self, seed: int) -> np.ndarray:
        self._step = 0
        self._world.reset(hash((seed, 1)) % (2**31 - 1))
        self._update_time()
        center = (self._area[0] // 2, self._area[1] // 2)
        self._player = objects.Player(self._world, center)
        self._last_health = self._player.health
        self._world.add(self._player)
        self._unlocked: set[str] = set()
        generate(self._world, self._player)
        return self._draw(self._player)

    def act(self, act: SupportsIndex) -> Outcome:
        self._step += 1
        self._update_time()
        self._player.action = constants.actions[act]
        self._update_objects()
        if self._step % 10 == 0:
            for chunk, members in self._world.chunks.items():
                self._balance_chunk(chunk, members)
        obs = self._draw(self._player)
        rew = (self._player.health - self._last_health) / 10
        self._last_health = self._player.health
        done = {name for name, count in self._player.achievements.items() if count}
        if done - self._unlocked:
            self._unlocked = done
            rew += 1.0
        dead = self._player.health <= 0
        trunc = not dead and self._step >= self._length
        over = dead or trunc
        return Outcome(obs, rew, dead, trunc, over, self._stats() if over else {})

    def _update_objects(self) -> None:
        player, *others = self._world.objects
        player.update()
        # From here on the player stands still, and others move in their own turn only.
        px, py = player.pos.tolist()
        for other in others:
            x, y = other.pos.tolist()
            if abs(x - px) + abs(y - py) < _ACTIVE_DISTANCE:
                other.update()

    def _stats(self) -> dict[str, float]:
        counts = self._player.achievements.items()
        return {f"achievement/{name}": float(count) for name, count in counts}
