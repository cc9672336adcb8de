"""`tokendream check-env`: step an environment, and say what an agent will make of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from envs.check import check_game
from envs.experience import EnvSpec
from envs.make import game_maker
from envs.spaces import Discrete, Image, MultiDiscrete, ObsSpace, Vector, describe
from envs.trees import named
from runners.errors import UserError
from runners.fitting import check_fit
from runners.settings.config import AgentSettings, Config
from runners.settings.options import CheckEnvOptions
from runners.settings.show import place

MANY_TOKENS = 256
"""Of one vector: so many make a world model slow, and there is a way with fewer."""


def main(config: Config, options: CheckEnvOptions, words: Sequence[str]) -> None:
    """Print what the environment of the settings shows and what the agent makes of it.

    `words` are those of the command line that a run would have, too.

    Raises UserError, in one line, for an environment that cannot be learned in.
    """
    try:
        make = game_maker(config.env.model_dump(), training=True)
        found = check_game(make, steps=options.steps, seed=config.seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    check_fit(config.agent, found.spec)
    becomes, total = _tokens(config.agent, found.spec)
    print(f"{place(config)} shows")
    for name, text in found.shown.items():
        print(f"  {f'{name}: ' if name else ''}{text}\n    -> {becomes[name]}")
    print(f"and is acted on by\n  {describe(found.spec.act)}")
    for line in _actions(config.agent, found.spec):
        print(f"    -> {line}")
    print(f"agent {config.presets.agent}: {total}")
    print(f"one step lasts {found.spec.frames_per_step} of the simulator's")
    print(found.play)
    print(found.seeds)
    print(f"to train in it: {shlex.join(['tokendream', 'train', *words])}")


def _tokens(agent: AgentSettings, spec: EnvSpec) -> tuple[dict[str, str], str]:
    """What becomes of each observation, and all that a frame has."""
    # Not before the environment is known to be one: torch takes seconds to import.
    import torch

    from agents.build import build_tokenizer
    from worldmodels.actions import ActionCodecs

    settings = agent.model_dump()
    actions = ActionCodecs(spec.act, **settings["actions"])
    texts, tokens, vocab = {}, 0, 0
    for name, space in named(spec.obs).items():
        # Grids of values are laid as they are built; networks for pictures need no weights here.
        with torch.device("meta" if isinstance(space, Image) else "cpu"):
            part: Any = build_tokenizer(settings, space, actions)
        texts[name] = (
            f"{_plural(part.tokens, 'token')} of {part.vocab:,} codes, {_how(agent, space)}"
        )
        if isinstance(space, Vector) and part.tokens > MANY_TOKENS:
            texts[name] += "; agent.vectors.kind=mlp makes a few of them all"
        tokens, vocab = tokens + part.tokens, vocab + part.vocab
    return texts, f"{_plural(tokens, 'token')} a frame, {vocab:,} codes in all"


def _how(agent: AgentSettings, space: ObsSpace) -> str:
    if isinstance(space, Image):
        return f"by agent.tokenizer.kind={agent.tokenizer.kind}"
    if isinstance(space, Vector):
        return f"by agent.vectors.kind={agent.vectors.kind}"
    return "as they are"


def _actions(agent: AgentSettings, spec: EnvSpec) -> Iterator[str]:
    """How the policy draws actions, and how the world model is told of them."""
    import torch

    from agents.action_heads import action_head
    from worldmodels.actions import ActionCodecs

    settings = agent.model_dump()
    head = action_head(spec.act, settings["policy"])
    with torch.device("meta"):
        codec = ActionCodecs(spec.act, **settings["actions"]).slots(settings["dynamics"]["width"])
    how, form = f"agent.policy.kind={agent.policy.kind}", agent.actions.form
    if isinstance(spec.act, Discrete):
        drawn, told = "one of them", "which one"
    elif isinstance(spec.act, MultiDiscrete):
        drawn, told = "each choice by itself", f"each choice, agent.actions.form={form}"
    else:
        drawn = f"each number by itself, {how}"
        what = "the numbers" if form == "floats" else f"the nearest of {agent.actions.bins} values"
        told = f"{what}, agent.actions.form={form}"
    yield f"the policy draws {drawn}, from {_plural(head.size, 'output')}"
    yield f"the world model is told {told}, in {_plural(codec.slots, 'position')}"


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
