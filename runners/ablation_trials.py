"""World models alone, one row of a table after the other, on the same tokens of recorded games.

Axes: B windows, T steps of a window, K tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from agents.agent import Agent
from envs.experience import EnvSpec
from runners.ablation_measures import Dreamed, Known, dreamed, known
from runners.hardware import Hardware, open_hardware
from runners.opening import agent_to_train, new_agent
from runners.recorded import Course, Games, clock_of, open_course, phase_of
from runners.rollout import undisturbed
from runners.settings.ablations import Plan, Row
from runners.settings.config import Config
from runners.settings.options import AblateOptions
from worldmodels.protocols import Tokenizer


@dataclass(frozen=True)
class Trial:
    """One world model of a table, trained with one seed; training: the row that was trained.

    parameters: of the dynamics. seconds: of an update of it and its batch, whose tokens were known;
    on a CPU of processor time.
    """

    row: str
    seed: int
    training: str
    parameters: int
    seconds: float
    known: Known
    dreamed: Dreamed


@dataclass(frozen=True)
class Lesson:
    """What all rows learn from with one seed: a tokenizer for good, the tokens of every batch."""

    tokenizer: Tokenizer
    tokens: list[Tensor]


def context_of(config: Config) -> int:
    """Real steps seen before a dream: as in training, but somebody has to see a start."""
    return max(1, config.agent.behaviour.context)


def steps_of(config: Config) -> int:
    """Steps of a held-out window: those seen, and those dreamed."""
    return context_of(config) + config.agent.behaviour.horizon


def run_trials(plan: Plan, games: Games, options: AblateOptions) -> Iterator[Trial]:
    """Train and measure the rows, seed by seed; rows with the same training one after the other."""
    first = plan.rows[0].config
    hardware = open_hardware(first.device, first.precision, first.threads)
    with open_course(first, games) as course:
        for seed in range(options.seeds):
            lesson = learn_tokens(_seeded(first, seed), games.spec, hardware, course, options)
            for group in plan.trainings():
                yield from _trials(group, seed, lesson, games.spec, hardware, course, games)


def learn_tokens(
    config: Config, spec: EnvSpec, hardware: Hardware, course: Course, options: AblateOptions
) -> Lesson:
    """Train the tokenizer, and write down the tokens of all batches that dynamics will learn."""
    agent = agent_to_train(config, spec, hardware)
    tokenizer, dynamics, _ = agent.learners()
    phase = phase_of(config, tokenizer, hardware)
    course.fit(phase)
    for batch in course.batches(phase, config.seed, options.tokenizer_updates):
        phase.update(batch.to(hardware.device))
    agent.eval()
    phase = phase_of(config, dynamics, hardware)
    with hardware.autocast():
        tokens = [
            agent.world_model.tokenize(batch.to(hardware.device)).int().cpu()
            for batch in course.batches(phase, config.seed, options.updates)
        ]
    return Lesson(agent.world_model.tokenizer, tokens)


def learn_dynamics(
    config: Config, spec: EnvSpec, hardware: Hardware, course: Course, lesson: Lesson
) -> tuple[Agent, float]:
    """An agent whose dynamics has learned the lesson, and the seconds of an update."""
    agent = _with_tokenizer(config, spec, hardware, lesson)
    told = iter(lesson.tokens)
    # As the agent's own learner, but that it need not ask the tokenizer.
    learner = replace(
        agent.learners()[1],
        prepare=lambda batch: (batch, next(told).to(batch.act.device, torch.int64)),
    )
    phase, clock = phase_of(config, learner, hardware), clock_of(hardware)
    begin, updates = clock(), len(lesson.tokens)
    for batch in course.batches(phase, config.seed, updates):
        phase.update(batch.to(hardware.device))
    return agent, (clock() - begin) / updates


def _trials(
    group: Sequence[Row],
    seed: int,
    lesson: Lesson,
    spec: EnvSpec,
    hardware: Hardware,
    course: Course,
    games: Games,
) -> Iterator[Trial]:
    first = group[0]
    trained, seconds = learn_dynamics(_seeded(first.config, seed), spec, hardware, course, lesson)
    learned = _module(trained.world_model.dynamics)
    windows = games.held_out.to(hardware.device)
    knows: dict[object, Known] = {}
    for row in group:
        agent = _with_tokenizer(_seeded(row.config, seed), spec, hardware, lesson)
        dynamics, world_model = _module(agent.world_model.dynamics), agent.world_model
        dynamics.load_state_dict(learned.state_dict())
        settings = row.config.agent.dynamics.model_dump()
        # Of what differs within a group, only guidance counts where nothing is drawn.
        guidance = settings.get("guidance")
        with hardware.autocast():
            if guidance not in knows:
                # More than `blocks` frames no dynamics remembers.
                whole = windows.last(settings["blocks"] - 1)
                with undisturbed(agent, 0):
                    knows[guidance] = known(world_model, whole)
            with undisturbed(agent, 0):
                dreams = dreamed(world_model, windows, context_of(row.config), hardware)
        parameters = sum(p.numel() for p in dynamics.parameters())
        yield Trial(row.name, seed, first.name, parameters, seconds, knows[guidance], dreams)


def _with_tokenizer(config: Config, spec: EnvSpec, hardware: Hardware, lesson: Lesson) -> Agent:
    agent = new_agent(config, spec, hardware)
    # In place: a layout may read the tokenizer's vectors.
    _module(agent.world_model.tokenizer).load_state_dict(_module(lesson.tokenizer).state_dict())
    return agent


def _module(part: object) -> nn.Module:
    assert isinstance(part, nn.Module)
    return part


def _seeded(config: Config, seed: int) -> Config:
    return config.model_copy(update={"seed": seed})
