"""From settings to an agent: all wiring, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agents.action_heads import action_head
from agents.actor_critics import ACTOR_CRITICS
from agents.agent import Agent
from agents.critic_targets import CRITIC_TARGETS
from agents.policy_gradients import POLICY_GRADIENTS
from agents.returns import RETURN_SCALES
from agents.views import VIEWS
from envs.experience import EnvSpec
from envs.spaces import Categories, Image, Space
from worldmodels.actions import ActionCodecs
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.processes import PROCESSES
from worldmodels.diffusion.schedules import SCHEDULES
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.nets.backbones import BACKBONES
from worldmodels.protocols import Layout
from worldmodels.quantizers import QUANTIZERS
from worldmodels.tokenizers import TOKENIZERS, VECTORS
from worldmodels.tokenizers.categories import Categories as CategoryTokens
from worldmodels.tokenizers.entries import Several, Whole
from worldmodels.world_model import WorldModel

Settings = Mapping[str, Any]


def make(table: Mapping[str, Callable[..., Any]], settings: Settings, /, **sizes: Any) -> Any:
    """Build the entry `settings['kind']` of `table`; the other keys are its keyword arguments.

    Raises ValueError, naming the choices, for an unknown kind.
    """
    arguments = dict(settings)
    kind = arguments.pop("kind")
    if kind not in table:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(sorted(table))}")
    return table[kind](**arguments, **sizes)


def build_agent(settings: Settings, env: EnvSpec) -> Agent:
    """Build the agent that the `agent` group of the settings describes, for an environment.

    Weights are drawn from torch's global generator.
    """
    dynamics_settings = dict(settings["dynamics"])
    actions = ActionCodecs(env.act, **settings["actions"])
    tokenizer = build_tokenizer(settings, env.obs, actions)
    layout = make(
        LAYOUTS,
        dynamics_settings.pop("layout"),
        width=dynamics_settings["width"],
        space=env.obs,
        actions=actions,
        tokenizer=tokenizer,
    )
    dynamics = build_dynamics(dynamics_settings, layout, tokenizer.vocab)
    behaviour = settings["behaviour"]
    view = VIEWS[settings["view"]](env=env, context=behaviour["context"])
    head = action_head(env.act, settings["policy"])
    keys = ("horizon", "gamma", "lam", "entropy", "target_decay")
    world_model = WorldModel(
        tokenizer=tokenizer,
        dynamics=dynamics,
        draws=view.looks or layout.look_size > 0,
        context=behaviour["model_context"],
    )
    actor_critic = make(
        ACTOR_CRITICS, settings["actor_critic"], space=view.space(world_model), outputs=head.size
    )
    return Agent(
        world_model=world_model,
        view=view,
        actor_critic=actor_critic,
        head=head,
        gradient=make(
            POLICY_GRADIENTS,
            behaviour["gradient"],
            world_model=world_model,
            view=view,
            head=head,
            gamma=behaviour["gamma"],
        ),
        critic_targets=make(CRITIC_TARGETS, behaviour["critic_targets"]),
        return_scale=make(RETURN_SCALES, behaviour["return_scale"]),
        **{key: behaviour[key] for key in keys},
    )


def build_tokenizer(settings: Settings, space: Space, actions: ActionCodecs) -> Any:
    """Build what makes tokens of everything that an environment shows."""
    if isinstance(space, dict):
        return Several({k: build_tokenizer(settings, one, actions) for k, one in space.items()})
    if isinstance(space, Categories):
        return Whole(CategoryTokens(sizes=space.sizes))
    if isinstance(space, Image):
        return make(TOKENIZERS, quantized(settings["tokenizer"]), space=space, actions=actions)
    return Whole(make(VECTORS, quantized(settings["vectors"]), size=space.size))


def quantized(settings: Settings) -> Settings:
    """The same with the quantizer that they describe, if they do."""
    if "quantizer" not in settings:
        return settings
    quantizer = make(QUANTIZERS, settings["quantizer"], tokens=settings["tokens"])
    return {**settings, "quantizer": quantizer}


def build_dynamics(settings: Settings, layout: Layout, vocab: int) -> Any:
    """Build the dynamics that settings without those of the layout describe."""
    arguments = dict(settings)
    if "process" in arguments:
        arguments |= denoiser_parts(arguments, layout, vocab)
        del arguments["layers"]
    return make(DYNAMICS, arguments, layout=layout, vocab=vocab)


def denoiser_parts(settings: Settings, layout: Layout, vocab: int) -> dict[str, Any]:
    """What a diffusion dynamics of these settings is made of, by the names of the settings.

    Raises ValueError for a sampler that does not fit the tokens of a frame, which only the
    environment tells where it shows no picture.
    """
    process = make(PROCESSES, scheduled(settings["process"]), vocab=vocab)
    sampler = scheduled(settings["sampler"])
    # The only sampler that asks what the noise is; the others know masks.
    known = {"kernel": process} if sampler["kind"] == "reverse" else {}
    try:
        drawn = make(SAMPLERS, sampler, tokens=layout.tokens, vocab=vocab, **known)
    except ValueError as error:
        raise ValueError(f"agent.dynamics.sampler: {error}") from error
    sizes = {"dim": settings["width"], "slots": layout.stride + 1}
    return {
        "process": process,
        "sampler": drawn,
        "backbone": make(
            BACKBONES,
            settings["backbone"],
            layers=settings["layers"],
            heads=settings["heads"],
            **sizes,
        ),
    }


def scheduled(settings: Settings) -> Settings:
    """The same with the schedule that they name, if they do."""
    if "schedule" not in settings:
        return settings
    return {**settings, "schedule": SCHEDULES[settings["schedule"]]()}
