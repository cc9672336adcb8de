"""Training runs: made, resumed, loaded. What `tokendream train` and `resume` do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from agents.agent import Agent
from agents.build import build_agent
from envs.base import Env
from envs.make import make_env
from runners.checkpoint import Checkpoints, load, load_weights
from runners.collect import LocalCollector
from runners.errors import UserError
from runners.hardware import Hardware, open_hardware
from runners.journal import Journal
from runners.phases import Phase
from runners.replay import Replay
from runners.run_folder import create_run, lock_run, note_command
from runners.settings.config import Config
from runners.settings.load import read, to_yaml
from runners.trainer import Schedule, Stopped, Trainer


@dataclass(frozen=True)
class LoadedRun:
    """An agent as a checkpoint left it, on its hardware, with the run's settings."""

    agent: Agent
    config: Config
    hardware: Hardware
    step: int


def main(config: Config, run_dir: Path | None = None) -> None:
    """Train from scratch in a new run folder, or in an empty one given for tests."""
    presets = config.presets
    folder = run_dir or create_run(
        Path(config.root),
        env=presets.env,
        agent=presets.agent,
        seed=config.seed,
        config=to_yaml(config),
        command=["tokendream", *sys.argv[1:]],
        name=config.name,
    )
    with lock_run(folder):
        _run(config, folder, None)


def resume(run_dir: Path, config: Config) -> None:
    """Go on from the run's last checkpoint, exactly as if it had not stopped."""
    with lock_run(run_dir):
        note_command(run_dir, ["tokendream", *sys.argv[1:]])
        checkpoint = Checkpoints(run_dir / "checkpoints", keep=config.run.keep).last()
        if checkpoint is None:
            raise UserError(f"run {run_dir} has no checkpoint: it stopped before its first one")
        _run(config, run_dir, checkpoint)


def load_agent(run_dir: Path, checkpoint: str = "last", device: str = "auto") -> LoadedRun:
    """The agent of a run, from its `last` or `best` checkpoint; raises UserError without one."""
    config = read(run_dir / "config.yaml").config
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=config.run.keep)
    folder = checkpoints.best() if checkpoint == "best" else checkpoints.last()
    if folder is None:
        raise UserError(f"run {run_dir} has no {checkpoint} checkpoint")
    hardware = open_hardware(device, config.precision, config.threads)
    env = open_env(config, num_envs=1, workers=0, training=False)
    env.close()
    agent = build_agent(config.agent.model_dump(), env.spec).to(hardware.device)
    state = load(folder)
    load_weights(agent, state["model"], folder)
    return LoadedRun(agent, config, hardware, state["position"]["steps"])


def open_env(config: Config, *, num_envs: int, workers: int, training: bool) -> Env:
    """The environments of the settings."""
    settings = config.env.model_dump()
    return make_env(settings, num_envs=num_envs, workers=workers, training=training)


def build_trainer(
    config: Config, folder: Path, env: Env, hardware: Hardware, **hooks: Any
) -> Trainer:
    """All parts of a run in `folder`, wired; seeds torch's global generator."""
    torch.manual_seed(config.seed)
    agent = build_agent(config.agent.model_dump(), env.spec).to(hardware.device)
    behaviour, settings = config.agent.behaviour, config.agent.phases.model_dump()
    replay = Replay(
        folder / "replay",
        num_streams=env.num_envs,
        obs_shape=env.spec.obs_shape,
        priorities={name: settings[name]["priority"] for name in settings},
        seed=config.seed,
        length_exponent=config.agent.length_exponent,
        pin_memory=hardware.device.type == "cuda",
    )
    collector = LocalCollector(
        env,
        replay,
        hardware,
        seed=config.seed,
        context=behaviour.context,
        epsilon=behaviour.epsilon,
        temperature=behaviour.temperature,
    )
    phases = []
    for learner in agent.learners():
        numbers = settings[learner.name]
        numbers.pop("priority")
        frames = numbers.pop("frames", behaviour.horizon + 1)
        phases.append(Phase(learner, hardware, frames=frames, **numbers))
    run = config.run
    schedule = Schedule(
        run.steps, run.first_steps, run.epoch_steps, run.tail_epochs, run.chunk_steps
    )
    return Trainer(
        agent=agent,
        collector=collector,
        replay=replay,
        phases=phases,
        schedule=schedule,
        hardware=hardware,
        context=behaviour.context,
        **hooks,
    )


def restore(trainer: Trainer, checkpoint: Path) -> dict[str, Any]:
    """Put a trainer where a checkpoint was saved, and return all that was saved."""
    state = load(checkpoint)
    load_weights(trainer.agent, state["model"], checkpoint)
    trainer.load_state_dict(state)
    return state


def _run(config: Config, folder: Path, checkpoint: Path | None) -> None:
    hardware = open_hardware(config.device, config.precision, config.threads)
    env = open_env(config, num_envs=config.env.num_envs, workers=config.env.workers, training=True)
    journal = Journal(config, folder, env.spec, hardware)
    try:
        with _stop_on_signals() as asked:
            trainer = build_trainer(
                config,
                folder,
                env,
                hardware,
                should_stop=lambda: bool(asked),
                on_progress=journal.progress,
                on_epoch=journal.epoch,
            )
            journal.open(trainer)
            if checkpoint is None:
                trainer.replay.clear()
            else:
                journal.load_state_dict(restore(trainer, checkpoint)["journal"])
            journal.begin(resumed=checkpoint is not None)
            try:
                trainer.run()
            except Stopped:
                journal.stopped()
                raise SystemExit(128 + asked[0]) from None
            journal.finish()
    finally:
        journal.close()
        env.close()


@contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second SIGINT kills at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if number == signal.SIGINT and len(asked) > 1:
            signal.default_int_handler(number, frame)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
