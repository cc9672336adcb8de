"""Any Gymnasium environment as a game."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from envs.base import Outcome
from envs.experience import EnvSpec
from envs.gym_spaces import GymActions, GymObservations
from envs.spaces import Obs

MOST_REWARD = float(np.finfo(np.float32).max)


class GymGame:
    """The environment `env_id`: `CartPole-v1`, `package.module:MyEnv-v0`, `package.module:MyEnv`.

    The part before a colon is imported first; what follows is an id that it registers, or a class
    or function in it that makes the environment. Images become (64,64,3): see `GymObservations`.
    Time limits of the registration hold. An episode that ends and meets its time limit at once
    has ended. `info` is ignored.

    Raises ValueError, in one line, for an id that is not known, a package that is missing, spaces
    that cannot be learned from, and rewards that are not finite; and with file and line, what the
    environment itself raises as ValueError in a step or a reset.
    """

    def __init__(self, env_id: str) -> None:
        self._env = make_gym(env_id)
        try:
            self._actions = GymActions(self._env.action_space)
            self._observations = GymObservations(self._env.observation_space)
        except ValueError as error:
            self._env.close()
            raise ValueError(f"env.id={env_id}: {error}") from error
        self.spec = EnvSpec(self._observations.spaces, self._actions.space)
        self._steps = 0

    def reset(self, seed: int) -> Obs:
        self._steps = 0
        with self._inside("reset"):
            obs, _ = self._env.reset(seed=seed)
        return self._observations(obs)

    def step(self, act: np.ndarray) -> Outcome:
        self._steps += 1
        action = self._actions(act)
        with self._inside(f"step {self._steps} of an episode"):
            obs, rew, terminated, truncated, _ = self._env.step(action)
        # Replay keeps rewards in float32, where large ones are no longer finite.
        if not abs(float(rew)) <= MOST_REWARD:
            raise ValueError(
                f"the reward of step {self._steps} of an episode is {float(rew):g}, "
                "not a finite number of float32"
            )
        end = bool(terminated)
        return Outcome(
            obs=self._observations(obs),
            rew=float(rew),
            end=end,
            trunc=bool(truncated) and not end,
            over=end or bool(truncated),
        )

    def close(self) -> None:
        self._env.close()

    @contextlib.contextmanager
    def _inside(self, where: str) -> Iterator[None]:
        """Says of a ValueError that it came from the environment's own code, and from which line.

        Alone it would read as if an observation or a setting were at fault.
        """
        try:
            yield
        except ValueError as error:
            words = f"the environment raised ValueError in {where}, {_line_of(error)}: {error}"
            raise ValueError(words) from error


def _line_of(error: ValueError) -> str:
    """File and line of the innermost code that is no library's, or of all where it is all one's."""
    libraries = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<")
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if frame.filename != __file__ and not frame.filename.startswith(libraries)
    ]
    innermost = (own or frames)[-1]
    return f"{innermost.filename}:{innermost.lineno}"


def make_gym(env_id: str) -> gymnasium.Env[Any, Any]:
    """The environment itself, for `GymGame`.

    Raises ValueError as there.
    """
    with _told(env_id):
        return find_gym(env_id)()


def find_gym(env_id: str) -> Callable[[], gymnasium.Env[Any, Any]]:
    """What makes the environment, found without making it.

    Modules are also looked for in the working folder, after all that is installed: the script
    `tokendream` does not begin there, as `python` does.

    Raises ValueError where the id is not known or a package is missing.
    """
    module_name, _, name = env_id.rpartition(":")
    if module_name and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    with _told(env_id):
        module = importlib.import_module(module_name) if module_name else None
        maker = getattr(module, name, None)
        if callable(maker):
            return maker
        try:
            gymnasium.spec(name)
        except gymnasium.error.Error as error:
            where = f" in {module.__file__}" if module else ""
            near = _nearest(name, module)
            raise ValueError(f"env.id={env_id} is unknown{where}; nearest: {near}") from error
        return functools.partial(gymnasium.make, name, disable_env_checker=True)


@contextlib.contextmanager
def _told(env_id: str) -> Iterator[None]:
    """Turns what Gymnasium and imports raise into a ValueError of one line."""
    try:
        yield
    except gymnasium.error.Error as error:
        # Among them what a simulator lacks; these messages name what to install.
        raise ValueError(f"env.id={env_id}: {' '.join(str(error).split())}") from error
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        if env_id.startswith((f"{package}.", f"{package}:")):
            cure = f"neither installed nor in the working folder, {Path.cwd()}"
        else:
            cure = f"not installed: pip install {package}"
        raise ValueError(f"env.id={env_id} needs the package {package}, which is {cure}") from error


def _nearest(name: str, module: ModuleType | None) -> str:
    """The registered id or the class of the module that is most like `name`."""
    choices = [*sorted(gymnasium.registry), *_classes(module)]
    # Compared without capitals: `cartpole` is near to CartPole-v1.
    plain = {choice.rpartition(":")[2].lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.0)
    hint = "" if module else f"; if a package has it, write package.module:{name}"
    return f"{plain[near[0]]}{hint}"


def _classes(module: ModuleType | None) -> list[str]:
    values = vars(module).items() if module else ()
    return [
        f"{value.__module__}:{name}"
        for name, value in values
        if isinstance(value, type) and issubclass(value, gymnasium.Env)
    ]
