"""From settings and checkpoints to environments and agents on their hardware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from agents.agent import Agent
from agents.build import build_agent
from envs.base import Env
from envs.experience import EnvSpec
from envs.make import make_env
from runners.checkpoint import Checkpoints, load, load_weights
from runners.errors import UserError
from runners.fitting import check_fit
from runners.hardware import Hardware, open_hardware
from runners.settings.config import Config
from runners.settings.load import read
from worldmodels.nets.lpips import Lpips


@dataclass(frozen=True)
class LoadedRun:
    """An agent as the checkpoint `source` left it after `step` steps, and its run's settings."""

    agent: Agent
    config: Config
    hardware: Hardware
    step: int
    source: Path


def open_env(config: Config, *, num_envs: int, workers: int, training: bool) -> Env:
    """The environments of the settings; raises UserError where they cannot be made."""
    settings = config.env.model_dump()
    try:
        return make_env(settings, num_envs=num_envs, workers=workers, training=training)
    except ValueError as error:
        raise UserError(str(error)) from error


def spec_of(config: Config) -> EnvSpec:
    """What the environment of the settings shows and accepts; raises UserError as `open_env`."""
    env = open_env(config, num_envs=1, workers=0, training=False)
    env.close()
    return env.spec


def new_agent(config: Config, spec: EnvSpec, hardware: Hardware) -> Agent:
    """An untrained agent; seeds torch's global generator, from which its weights come.

    Raises UserError where its settings do not fit what the environment shows.
    """
    check_fit(config.agent, spec)
    torch.manual_seed(config.seed)
    try:
        agent = build_agent(config.agent.model_dump(), spec)
    except ValueError as error:
        raise UserError(str(error)) from error
    return agent.to(hardware.device)


def agent_to_train(config: Config, spec: EnvSpec, hardware: Hardware) -> Agent:
    """The same with the published weights that its losses need; UserError where they are damaged.

    An agent that only plays or dreams does without them.
    """
    agent = new_agent(config, spec, hardware)
    for part in agent.modules():
        if isinstance(part, Lpips):
            try:
                part.load(hardware.device)
            except ValueError as error:
                raise UserError(f"agent.tokenizer.perceptual: {error}") from error
    return agent


def load_agent(run_dir: Path, checkpoint: str = "last", device: str = "auto") -> LoadedRun:
    """The agent of a run, from its `last` or `best` checkpoint; raises UserError without one."""
    config = read(run_dir / "config.yaml").config
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=config.run.keep)
    folder = checkpoints.best() if checkpoint == "best" else checkpoints.last()
    if folder is None:
        raise UserError(f"run {run_dir} has no {checkpoint} checkpoint")
    hardware = open_hardware(device, config.precision, config.threads)
    agent = new_agent(config, spec_of(config), hardware)
    state = load(folder)
    load_weights(agent, state["model"], folder)
    return LoadedRun(agent, config, hardware, state["position"]["steps"], folder)
