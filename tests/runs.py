"""Runs so small that they train in a second, and what compares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.base import Env, Game
from envs.vector import VectorEnv
from runners.hardware import Hardware
from runners.settings.config import Config
from runners.settings.load import load
from runners.train import build_trainer
from runners.trainer import Trainer

HARDWARE = Hardware(torch.device("cpu"), torch.float32)

_ALL = """
size=tiny run=debug device=cpu precision=float32 threads=1 console=plain env.num_envs=3
env.workers=0 agent.dynamics.width=64 agent.dynamics.layers=1 agent.dynamics.heads=2
agent.behaviour.horizon=3 agent.behaviour.context=2 agent.behaviour.epsilon=0.2 run.steps=60
run.first_steps=30 run.epoch_steps=15 run.chunk_steps=7 run.tail_epochs=1
run.eval_episodes=2 run.eval_envs=2 run.checkpoint_minutes=1000 run.dream_minutes=0
"""
_CONV = "patch=8 mult=[1] down=[0]"
_CODES = "quantizer.size=32 quantizer.dim=8"
_FRAME_TOKENS = (
    "tokens=4 patch=8 mult=[1,1] down=[1,1] attend=[0,1] encoder.base=8 encoder.latent=8 "
    f"decoder.base=8 {_CODES}"
)
_DELTA = {
    "tokenizer": f"{_CONV} encoder.base=8 encoder.latent=8 context.base=8 context.latent=4 "
    f"decoder.base=8 {_CODES}",
    "dynamics.layout": f"{_CONV} base=8 latent=1",
}
# An agent that is not here has the networks of its preset.
_AGENTS = {
    "delta_iris": {
        **_DELTA,
        "actor_critic": f"{_CONV} base=8 latent=2 hidden=16",
    },
    "delta_iris_tokens": {**_DELTA, "actor_critic": "hidden=16 layers=1"},
    "iris": {
        "tokenizer": _FRAME_TOKENS,
        "dynamics": "dropout=0.1",
        "actor_critic": "patch=8 widths=[8,8] hidden=16",
    },
    "dart": {
        "tokenizer": _FRAME_TOKENS,
        "dynamics": "dropout=0.1",
        "actor_critic": "width=16 layers=1 heads=2 mlp=32",
    },
    "rem": {
        "tokenizer": _FRAME_TOKENS,
        "dynamics": "dropout=0.1",
        "actor_critic": "width=16 layers=1 heads=2 mlp=32",
    },
    "diffusion": {
        "tokenizer": _FRAME_TOKENS,
        "dynamics": "dropout=0.1 sampler.steps=2",
        "actor_critic": "width=16 layers=1 heads=2 mlp=32",
    },
    "copilot4d": {
        "tokenizer": _FRAME_TOKENS,
        "dynamics": "dropout=0.1 sampler.steps=2",
        "actor_critic": "width=16 layers=1 heads=2 mlp=32",
    },
    "state_tokens": {
        "tokenizer": _FRAME_TOKENS,
        "vectors": "values=17",
        "actor_critic": "hidden=16 layers=1",
    },
}
_GAMES = {
    # Real Crafter, its episodes cut at 12 steps.
    "crafter": "env.length=12",
    "atari": "env.game=pong env.max_frames=48",
    "cartpole": "",
    "dmc_state": "env.task=reacher-easy",
    # In a process of its own, as one without a renderer may have been played in this one.
    "dmc_vision": "env.task=cartpole-swingup env.quality=fast env.workers=1",
    "gym": "env.id=Pendulum-v1",
}


def words_of(agent: str = "delta_iris", env: str = "crafter") -> list[str]:
    """The command line of a run of 60 steps in 4 epochs."""
    parts = _AGENTS.get(agent, {}).items()
    own = [f"agent.{at}.{word}" for at, words in parts for word in words.split()]
    return [f"agent={agent}", f"env={env}", *_ALL.split(), *own, *_GAMES[env].split()]


CRAFTER = words_of()


def small(*words: str, agent: str = "delta_iris", env: str = "crafter") -> Config:
    """The settings of such a run, changed by `words`."""
    return load([*words_of(agent, env), *words]).config


def games(make: Callable[[], Game], count: int = 3) -> VectorEnv:
    """Games in this process."""
    return VectorEnv([make] * count)


def trainer_of(config: Config, folder: Path, env: Env, **hooks: Any) -> Trainer:
    """A trainer without a journal."""
    quiet = {
        "should_stop": lambda: False,
        "on_progress": lambda what: None,
        "on_epoch": lambda scalars, finished: None,
    }
    return build_trainer(config, folder, env, HARDWARE, **{**quiet, **hooks})


def essence(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without what depends on the clock."""
    position = {k: v for k, v in state["position"].items() if k != "seconds"}
    parts = ("model", "optimizers", "probes", "collector", "replay", "rng", "epoch")
    return {"position": position, **{part: state[part] for part in parts}}


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested states differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [x for key in a for x in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} items"]
        pairs = zip(a, b, strict=True)
        return [x for i, (v, w) in enumerate(pairs) for x in differences(v, w, f"{path}.{i}")]
    if isinstance(a, torch.Tensor):
        same = torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        same = bool(np.array_equal(a, b))
    else:
        same = a == b
    return [] if same else [f"{path}: {a} and {b}"[:200]]
