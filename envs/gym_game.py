"""Any Gymnasium environment as a game."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from envs.base import Outcome
from envs.experience import EnvSpec
from envs.gym_spaces import GymActions, GymObservations
from envs.spaces import Obs


class GymGame:
    """The environment `env_id`: `CartPole-v1`, `package.module:MyEnv-v0`, `package.module:MyEnv`.

    The part before a colon is imported first; what follows is an id that it registers, or a class
    or function in it that makes the environment. `options` go to the environment. Images become
    (size,size,3): see `GymObservations`. Time limits of the registration hold. An episode that
    ends and meets its time limit at once has ended. `info` is ignored.

    Raises ValueError, in one line, for an id that is not known, a package that is missing, and
    spaces that cannot be learned from.
    """

    def __init__(self, env_id: str, *, size: int = 64, **options: Any) -> None:
        self._env = make_gym(env_id, options)
        try:
            self._actions = GymActions(self._env.action_space)
            self._observations = GymObservations(self._env.observation_space, size)
        except ValueError as error:
            self._env.close()
            raise ValueError(f"env.id={env_id}: {error}") from error
        self.spec = EnvSpec(self._observations.spaces, self._actions.space)

    def reset(self, seed: int) -> Obs:
        obs, _ = self._env.reset(seed=seed)
        return self._observations(obs)

    def step(self, act: np.ndarray) -> Outcome:
        obs, rew, terminated, truncated, _ = self._env.step(self._actions(act))
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


def make_gym(env_id: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """The environment itself, for `GymGame`.

    Raises ValueError as there.
    """
    module_name, _, name = env_id.rpartition(":")
    module = None
    try:
        module = importlib.import_module(module_name) if module_name else None
        maker = getattr(module, name, None)
        if callable(maker):
            return maker(**options)
        return gymnasium.make(name, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise ValueError(f"env.id={env_id} is unknown; {_nearest(name, module)}") from error
    except gymnasium.error.Error as error:
        # Among them what a simulator lacks; these messages name what to install.
        raise ValueError(f"env.id={env_id}: {' '.join(str(error).split())}") from error
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        raise ValueError(
            f"env.id={env_id} needs the package {package}, which is not installed: "
            f"pip install {package}, or name the folder it is in by PYTHONPATH"
        ) from error


def _nearest(name: str, module: ModuleType | None) -> str:
    """The registered id or the class of the module that is most like `name`."""
    choices = [*sorted(gymnasium.registry), *_classes(module)]
    # Compared without capitals: `cartpole` is near to CartPole-v1.
    plain = {choice.rpartition(":")[2].lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.0)
    hint = "" if module else f"; if a package has it, write package.module:{name}"
    return f"nearest: {plain[near[0]]}{hint}"


def _classes(module: ModuleType | None) -> list[str]:
    values = vars(module).items() if module else ()
    return [
        f"{value.__module__}:{name}"
        for name, value in values
        if isinstance(value, type) and issubclass(value, gymnasium.Env)
    ]
