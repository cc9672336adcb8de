"""Training runs: made, resumed, loaded. What `tokendream train` and `resume` do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from agents.agent import Agent
from envs.base import Env
from runners.checkpoint import Checkpoints, load, load_weights
from runners.collect import LocalCollector
from runners.durable import write_atomic
from runners.errors import UserError
from runners.hardware import Hardware, open_hardware
from runners.journal import Journal
from runners.opening import agent_to_train, open_env
from runners.phases import Phase
from runners.replay import Replay
from runners.run_folder import (
    create_run,
    failure_noted,
    lock_run,
    note_command,
    read_summary,
    run_word,
)
from runners.settings.config import Config
from runners.settings.load import read, to_yaml
from runners.trainer import Schedule, Stopped, Trainer


@dataclass(frozen=True)
class _Resumed:
    """A run that is there already, and its last checkpoint, if it came to one."""

    checkpoint: Path | None


def main(config: Config) -> Path:
    """Train from scratch in a new run folder, which is made once all that it needs is there."""
    presets = config.presets
    with _opened(config) as (hardware, env, agent):
        folder = create_run(
            Path(config.root),
            env=presets.env,
            agent=presets.agent,
            seed=config.seed,
            config=to_yaml(config),
            command=["tokendream", *sys.argv[1:]],
            name=config.name,
        )
        with lock_run(folder):
            _run(config, folder, env, hardware, agent)
    return folder


def resume(run_dir: Path, config: Config) -> None:
    """Go on from the run's last checkpoint, exactly as if it had not stopped.

    A run that was killed before its first checkpoint begins anew. Raises UserError where the run
    has finished and `config` does not ask for more of it.
    """
    with lock_run(run_dir):
        checkpoint = Checkpoints(run_dir / "checkpoints", keep=config.run.keep).last()
        _refuse_finished(run_dir, config)
        with _opened(config) as (hardware, env, agent):
            _run(config, run_dir, env, hardware, agent, _Resumed(checkpoint))


def build_trainer(
    config: Config,
    folder: Path,
    env: Env,
    hardware: Hardware,
    agent: Agent | None = None,
    **hooks: Any,
) -> Trainer:
    """All parts of a run in `folder`, wired, around a new agent or the untrained one given."""
    agent = agent or agent_to_train(config, env.spec, hardware)
    behaviour, settings = config.agent.behaviour, config.agent.phases.model_dump()
    replay = Replay(
        folder / "replay",
        num_streams=env.num_envs,
        obs=env.spec.obs,
        act=env.spec.act,
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


def restore(trainer: Trainer, state: dict[str, Any], source: Path) -> None:
    """Put a trainer where the checkpoint `source`, which holds `state`, was saved."""
    load_weights(trainer.agent, state["model"], source)
    trainer.load_state_dict(state)


def _run(
    config: Config,
    folder: Path,
    env: Env,
    hardware: Hardware,
    agent: Agent,
    resumed: _Resumed | None = None,
) -> None:
    checkpoint = resumed.checkpoint if resumed else None
    # Read before the folder is touched, as it may be damaged.
    state = load(checkpoint) if checkpoint else {}
    journal = Journal(config, folder, env.spec, hardware)
    with _stop_on_signals() as asked, closing(journal):
        trainer = build_trainer(
            config,
            folder,
            env,
            hardware,
            agent,
            should_stop=lambda: bool(asked),
            on_progress=journal.progress,
            on_epoch=journal.epoch,
        )
        journal.open(trainer)
        if checkpoint is None:
            trainer.replay.clear()
        else:
            restore(trainer, state, checkpoint)
            journal.load_state_dict(state["journal"])
            # A second copy of all weights should not live as long as the run.
            state.clear()
        if resumed is not None:
            note_command(folder, ["tokendream", *sys.argv[1:]])
            write_atomic(folder / "config.yaml", to_yaml(config))
        with failure_noted(folder):
            journal.begin(resumed=checkpoint is not None)
            try:
                trainer.run()
                journal.finish()
            except Stopped:
                journal.stopped()
                raise SystemExit(128 + asked[0]) from None


@contextmanager
def _opened(config: Config) -> Iterator[tuple[Hardware, Env, Agent]]:
    """What a run needs beside its folder; the environments are closed at the end."""
    hardware = open_hardware(config.device, config.precision, config.threads)
    num_envs, workers = config.env.num_envs, config.env.workers
    with closing(open_env(config, num_envs=num_envs, workers=workers, training=True)) as env:
        yield hardware, env, agent_to_train(config, env.spec, hardware)


def _refuse_finished(run_dir: Path, config: Config) -> None:
    summary = read_summary(run_dir)
    if summary.get("status") != "finished":
        return
    before = read(run_dir / "config.yaml").config.run
    if config.run.steps <= before.steps and config.run.tail_epochs <= before.tail_epochs:
        raise UserError(
            f"run {run_dir.name} has finished its {summary['steps']:,} steps; "
            f"to train it further: tokendream resume {run_word(run_dir)} "
            f"run.steps={2 * before.steps}"
        )


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
