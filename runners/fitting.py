"""Whether an agent's settings fit what an environment shows, which is known once it is made.

Nothing is built for it, and torch is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from envs.experience import EnvSpec
from envs.spaces import Categories, Image, ObsSpace, called
from envs.trees import named
from runners.errors import UserError
from runners.settings.checks import MOST_CODES
from runners.settings.config import AgentSettings
from runners.settings.conv import IMAGE, ConvSettings
from runners.settings.policies import PoolLstmSettings
from runners.settings.tokenizers import AutoencoderSettings
from runners.settings.transformers import FrameLayoutSettings, TransformerSettings


def check_fit(agent: AgentSettings, spec: EnvSpec) -> None:
    """Raises UserError, naming the settings, where the agent cannot live in the environment."""
    faults = [
        fault for name, space in named(spec.obs).items() for fault in _faults(agent, name, space)
    ]
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _faults(agent: AgentSettings, name: str, space: ObsSpace) -> Iterator[str]:
    if isinstance(space, Categories):
        if max(space.sizes) > MOST_CODES:
            yield (
                f"{called(name)} is one of {max(space.sizes)} categories, and there can be "
                f"{MOST_CODES} codes at most: show it as a Box of numbers, or leave it out"
            )
    elif isinstance(space, Image):
        yield from _picture(agent, space.shape[0])


def _picture(agent: AgentSettings, side: int) -> Iterator[str]:
    """Networks for pictures of 64x64 may fit other sizes, or not.

    Only DeepMind Control shows others, by env.size; all else is resized.
    """
    shown = f"pictures are {side}x{side} (env.size)"
    tokenizer, policy, dynamics = agent.tokenizer, agent.actor_critic, agent.dynamics
    if isinstance(tokenizer, AutoencoderSettings):
        unit = int(IMAGE / tokenizer.grid) * isqrt(tokenizer.tokens)
        if side % unit:
            yield (
                f"{shown}: agent.tokenizer.patch={tokenizer.patch}, its down="
                f"{list(tokenizer.down)} and tokens={tokenizer.tokens} need a multiple of {unit}"
            )
    looks = agent.view in ("frame", "reconstruction")
    if looks and isinstance(policy, ConvSettings | PoolLstmSettings):
        unit = int(IMAGE / policy.grid)
        if side % unit:
            yield f"{shown}: the convolutions of agent.actor_critic need a multiple of {unit}"
    if (
        side != IMAGE
        and isinstance(dynamics, TransformerSettings)
        and isinstance(dynamics.layout, FrameLayoutSettings)
    ):
        yield (
            f"{shown}: agent.dynamics.layout.kind={dynamics.layout.kind} looks at pictures of "
            f"{IMAGE}x{IMAGE} only"
        )
