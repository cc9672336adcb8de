"""DeepMind Control: real dm-control tasks, seen as pixels, as the state, or both."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from envs import gl
from envs.base import Outcome
from envs.dmc_tasks import draws, split_task
from envs.experience import EnvSpec
from envs.spaces import Bounds, Continuous, Image, Obs, ObsSpace, Space, Vector, as_action, observe
from envs.trees import each

Observe = Literal["pixels", "state", "both"]


class DMCGame:
    """One task of the suite, such as `walker-walk`. An episode is 1,000 control steps.

    `observe` says what is seen: `pixels` a picture of `size` x `size` from camera 0, for the
    quadruped 2; `state` one vector; `both` a dict of these. The vector has everything that
    dm-control observes, in its order: a grid gives every number its own tokens anyway, while an
    encoder of whole vectors shall not need one net and one token count for each of the entries,
    some of which are single numbers.

    Every action is held for `action_repeat` control steps and earns the sum of their rewards. An
    episode is cut at its last control step, which is a time limit; it ends only where the task
    says that there is no future (discount 0), and no task of the benchmarks does.

    `quality` "full" draws as every published result does. "fast" leaves out shadows and
    smoothing: 5 to 8 times quicker on a CPU, and another picture, by 6 of 255 grey levels in the
    mean; for tests and small machines.

    dm-control binds its process to one renderer, or to none, with the first game.
    """

    def __init__(
        self,
        task: str,
        *,
        observe: Observe = "pixels",
        action_repeat: int = 2,
        size: int = 64,
        quality: Literal["full", "fast"] = "full",
    ) -> None:
        domain, name = split_task(task)
        with _quiet():
            self._env = load_suite(draws(task, observe)).load(domain, name, {"random": 0})
        self._camera = 2 if domain == "quadruped" else 0
        self._repeat = action_repeat
        self._flags = {}
        if quality == "fast":
            self._env.physics.model.vis.quality.offsamples = 0
            self._flags = {"shadow": False}
        raw = self._env.action_spec()
        self._bounds = Bounds(raw.minimum.astype(np.float64), raw.maximum.astype(np.float64))
        self._act = Continuous(raw.shape[0])
        entries = self._env.observation_spec().values()
        state = Vector(sum(int(np.prod(entry.shape)) for entry in entries))
        pixels = Image((size, size, 3))
        seen: dict[str, Space] = {
            "pixels": pixels,
            "state": state,
            "both": {"pixels": pixels, "state": state},
        }
        self.spec = EnvSpec(seen[observe], self._act, action_repeat)

    def reset(self, seed: int) -> Obs:
        self._env.task.random.seed(seed)
        return self._see(self._env.reset())

    def step(self, act: np.ndarray) -> Outcome:
        raw = self._bounds.expand(as_action(self._act, act))
        rew = 0.0
        for _ in range(self._repeat):
            moment = self._env.step(raw)
            rew += moment.reward
            if moment.last():
                break
        over = moment.last()
        end = over and moment.discount == 0
        return Outcome(self._see(moment), rew, end=end, trunc=over and not end, over=over)

    def close(self) -> None:
        self._env.physics.free()

    def _see(self, moment: Any) -> Obs:
        def see(space: ObsSpace) -> np.ndarray:
            if isinstance(space, Image):
                return observe("pixels", space, self._draw(space.shape[0]))
            return observe("state", space, _flat(moment.observation))

        return each(see, self.spec.obs)

    def _draw(self, size: int) -> np.ndarray:
        return self._env.physics.render(
            size, size, camera_id=self._camera, render_flag_overrides=self._flags
        )


def load_suite(draw: bool) -> Any:
    """The module `dm_control.suite`, loaded with a renderer if it shall `draw`, else without.

    Raises ValueError, naming the package, where dm-control or a graphics library is missing, or
    where this process has loaded dm-control without a renderer before.
    """
    if "dm_control._render" not in sys.modules:
        _first_import(gl.choose_backend() if draw else "disabled")
    from dm_control import _render, suite

    if draw and _render.BACKEND in (None, "disabled", "disable", "off", "false", "0"):
        raise ValueError(
            "dm-control was loaded without a renderer in this process: play games with pixels "
            "before those without, or in worker processes (env.workers)"
        )
    return suite


def _first_import(backend: str) -> None:
    # The variable must not stay: other processes would take it for the user's choice.
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = backend
    try:
        import dm_control._render  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(_install_line(error)) from error
    except (ImportError, AttributeError) as error:
        # EGL without a driver, or a half of OpenGL.
        raise ValueError(f"MUJOCO_GL={backend} fails ({error}): {gl.remedy()}") from error
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


def _install_line(error: ModuleNotFoundError) -> str:
    line = f"env.suite=dmc needs the package {error.name}, which is not installed: "
    if sys.version_info >= (3, 13):
        return line + (
            "one of dm-control's own dependencies (labmaze) has no wheel for this Python; "
            "use Python 3.11 or 3.12"
        )
    return line + 'pip install "tokendream[dmc]"'


def _flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(entry) for entry in observation.values()])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back MuJoCo's advice to the authors of the suite's models."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
