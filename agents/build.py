"""From settings to an agent: all wiring, top to bottom."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from agents.actor_critics import ACTOR_CRITICS
from agents.agent import Agent
from agents.critic_targets import CRITIC_TARGETS
from agents.returns import RETURN_SCALES
from agents.views import VIEWS
from envs.experience import EnvSpec
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.processes import PROCESSES
from worldmodels.diffusion.schedules import SCHEDULES
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.nets.backbones import BACKBONES
from worldmodels.quantizers import QUANTIZERS
from worldmodels.tokenizers import TOKENIZERS
from worldmodels.world_model import WorldModel

Settings = Mapping[str, Any]

DYNAMICS_PARTS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "backbone": BACKBONES,
    "process": PROCESSES,
    "sampler": SAMPLERS,
}
"""What a dynamics may be made of, by the name of the setting; it knows the sizes of its parts."""


def make(table: Mapping[str, Callable[..., Any]], settings: Settings, /, **sizes: Any) -> Any:
    """Build the entry `settings['kind']` of `table`; the other keys are its keyword arguments.

    Raises ValueError, naming the choices, for an unknown kind.
    """
    entry, arguments = _entry(table, settings)
    return entry(**arguments, **sizes)


def part(table: Mapping[str, Callable[..., Any]], settings: Settings) -> Callable[..., Any]:
    """The same entry, to be built by what it is a part of, which knows its sizes."""
    entry, arguments = _entry(table, settings)
    return functools.partial(entry, **arguments)


def _entry(
    table: Mapping[str, Callable[..., Any]], settings: Settings
) -> tuple[Callable[..., Any], dict[str, Any]]:
    arguments = dict(settings)
    kind = arguments.pop("kind")
    if kind not in table:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(sorted(table))}")
    return table[kind], arguments


def build_agent(settings: Settings, env: EnvSpec) -> Agent:
    """Build the agent that the `agent` group of the settings describes, for an environment.

    Weights are drawn from torch's global generator.
    """
    tokenizer_settings, dynamics_settings = dict(settings["tokenizer"]), dict(settings["dynamics"])
    shapes = {"obs_shape": env.obs_shape, "num_actions": env.act.n}
    parts: dict[str, Any] = {}
    if "quantizer" in tokenizer_settings:
        chosen, tokens = tokenizer_settings.pop("quantizer"), tokenizer_settings["tokens"]
        parts["quantizer"] = make(QUANTIZERS, chosen, tokens=tokens)
    tokenizer = make(TOKENIZERS, tokenizer_settings, **shapes, **parts)
    layout = make(
        LAYOUTS,
        dynamics_settings.pop("layout"),
        width=dynamics_settings["width"],
        vocab=tokenizer.vocab,
        tokens=tokenizer.tokens,
        num_actions=env.act.n,
    )
    if "schedule" in (process := dynamics_settings.get("process", {})):
        schedule = make(SCHEDULES, process["schedule"])
        dynamics_settings["process"] = process | {"schedule": schedule}
    for name in DYNAMICS_PARTS.keys() & dynamics_settings.keys():
        dynamics_settings[name] = part(DYNAMICS_PARTS[name], dynamics_settings[name])
    dynamics = make(DYNAMICS, dynamics_settings, layout=layout, vocab=tokenizer.vocab)
    behaviour = settings["behaviour"]
    view = VIEWS[settings["view"]](obs_shape=env.obs_shape, context=behaviour["context"])
    keys = ("horizon", "gamma", "lam", "entropy", "target_decay")
    world_model = WorldModel(
        tokenizer=tokenizer,
        dynamics=dynamics,
        draws=view.looks or layout.look_size > 0,
        context=behaviour["model_context"],
    )
    actor_critic = make(
        ACTOR_CRITICS,
        settings["actor_critic"],
        obs_shape=view.shape(world_model),
        num_actions=env.act.n,
    )
    return Agent(
        world_model=world_model,
        view=view,
        actor_critic=actor_critic,
        critic_targets=make(CRITIC_TARGETS, behaviour["critic_targets"]),
        return_scale=make(RETURN_SCALES, behaviour["return_scale"]),
        **{key: behaviour[key] for key in keys},
    )
