"""What must hold between settings. Each check tells the numbers that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt, prod

from runners.settings.base import Settings
from runners.settings.build import dotted, fields
from runners.settings.config import AgentSettings, Config
from runners.settings.conv import ConvSettings, DeepConvSettings
from runners.settings.diffusion import DiffusionSettings
from runners.settings.diffusion_checks import check_diffusion
from runners.settings.dynamics import FactorisedSettings
from runners.settings.environments import AtariSettings
from runners.settings.gradient_checks import check_gradient
from runners.settings.policies import (
    ACTOR_CRITICS,
    PercentilesSettings,
    PoolLstmSettings,
    TokenTransformerSettings,
)
from runners.settings.quantizers import (
    CodebookSettings,
    FsqSettings,
    LfqSettings,
    QuantizerSettings,
)
from runners.settings.tokenizers import AutoencoderSettings, DeltaVqSettings, TokenizerSettings
from runners.settings.transformers import (
    BlindLayoutSettings,
    FrameLayoutSettings,
    PackedLayoutSettings,
    TokenLayoutSettings,
    TransformerSettings,
)
from runners.settings.vectors import BinsSettings, VectorsSettings

MOST_CODES = 65_536


def check(config: Config) -> Iterator[str]:
    """A line for each pair of settings that contradict each other."""
    for at, group in _groups(config, ""):
        if isinstance(group, ConvSettings):
            yield from _grid(group, at)
        if isinstance(group, PoolLstmSettings):
            yield from _divided(group, at, f"widths={list(group.widths)}")
        if isinstance(group, TransformerSettings | TokenTransformerSettings):
            yield from _heads(group, at)
        if isinstance(group, QuantizerSettings):
            yield from _codes(group, at)
        if isinstance(group, PercentilesSettings) and group.low >= group.high:
            yield f"{at}low={group.low:g} must be below {at}high={group.high:g}"
    yield from _tokens(config.agent.tokenizer)
    yield from _values(config.agent.vectors)
    yield from _whole_frames(config.agent)
    yield from _sight(config.agent)
    yield from _latent(config.agent)
    yield from check_gradient(config.agent)
    yield from _transformer(config)
    yield from _schedule(config)
    if isinstance(config.agent.dynamics, DiffusionSettings):
        yield from check_diffusion(config.agent.dynamics, config.agent.tokenizer)


def _groups(settings: Settings, at: str) -> Iterator[tuple[str, Settings]]:
    """Every group of settings, those inside before the one around them, and where it is."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _groups(value, f"{at}{name}.")
    yield at, settings


def _grid(settings: ConvSettings, at: str) -> Iterator[str]:
    if len(settings.mult) != len(settings.down):
        yield (
            f"{at}mult has {len(settings.mult)} stages and {at}down has "
            f"{len(settings.down)}: they must be equally many"
        )
    if isinstance(settings, DeepConvSettings) and len(settings.attend) != len(settings.mult):
        yield (
            f"{at}mult has {len(settings.mult)} stages and {at}attend has "
            f"{len(settings.attend)}: they must be equally many"
        )
    yield from _divided(settings, at, f"down={list(settings.down)}")
    yield from _widths(settings, at)


def _divided(settings: ConvSettings | PoolLstmSettings, at: str, halvings: str) -> Iterator[str]:
    if settings.grid < 1 or settings.grid != int(settings.grid):
        yield (
            f"{at}patch={settings.patch} and {at}{halvings} do not divide "
            f"64x64 pixels: patch must be a power of two, patch x 2^halvings at most 64"
        )


def _widths(settings: ConvSettings, at: str) -> Iterator[str]:
    for key, _, base in fields(settings):
        if key[-1] != "base" or not isinstance(base, int):
            continue
        # A narrow layer has as many groups as channels.
        odd = [base * m for m in settings.mult if base * m % min(settings.groups, base * m)]
        if odd:
            yield (
                f"{at}{dotted(key)}={base} x {at}mult={list(settings.mult)} makes {odd[0]} "
                f"channels, which {at}groups={settings.groups} do not divide"
            )


def _codes(quantizer: QuantizerSettings, at: str) -> Iterator[str]:
    if isinstance(quantizer, FsqSettings):
        levels = list(quantizer.levels)
        if prod(levels) > MOST_CODES:
            yield f"{at}levels={levels} make {prod(levels)} codes, more than {MOST_CODES}"
        if quantizer.form == "published" and min(levels) < 3:
            yield (
                f"{at}levels={levels} with {at}form=published: that form needs 3 levels or more, "
                f"as one of 2 is hardly ever reached"
            )
    if isinstance(quantizer, LfqSettings) and quantizer.entropy == "exact" and quantizer.bits > 12:
        yield (
            f"{at}bits={quantizer.bits} is too many for {at}entropy=exact, which counts every code:"
            f" at most 12, or entropy=factorised"
        )
    if (
        isinstance(quantizer, CodebookSettings)
        and quantizer.gradient == "rotation"
        and quantizer.dim == 1
    ):
        yield f"{at}dim=1 with {at}gradient=rotation: one number cannot be turned"


def _tokens(tokenizer: TokenizerSettings) -> Iterator[str]:
    if not isinstance(tokenizer, AutoencoderSettings):
        return
    side, grid = isqrt(tokenizer.tokens), tokenizer.grid
    if grid < 1 or grid != int(grid):
        return
    if side**2 != tokenizer.tokens or grid % side:
        fits = [n**2 for n in range(1, int(grid) + 1) if grid % n == 0]
        yield (
            f"agent.tokenizer.tokens={tokenizer.tokens} does not divide the {int(grid)}x{int(grid)}"
            f" grid into squares: it must be one of {', '.join(map(str, fits))}"
        )


def _values(vectors: VectorsSettings) -> Iterator[str]:
    """Some grids have a value in the middle, and as many on each side."""
    if not isinstance(vectors, BinsSettings):
        return
    share = {"core_tails": 2, "spread": 2, "symlog_two_densities": 4}.get(vectors.grid, 1)
    if (vectors.values - 1) % share:
        yield (
            f"agent.vectors.values={vectors.values} with agent.vectors.grid={vectors.grid}: it "
            f"needs one more than a multiple of {share}; nearest: "
            f"{round((vectors.values - 1) / share) * share + 1}"
        )


def _whole_frames(agent: AgentSettings) -> Iterator[str]:
    """Tokens of what changed say nothing without the frame that changed."""
    if not isinstance(agent.tokenizer, DeltaVqSettings):
        return
    if agent.view == "reconstruction":
        yield (
            "agent.view=reconstruction with agent.tokenizer.kind=delta_vq: it rebuilds a frame "
            "from the one before, which the first has not; agent.tokenizer.kind=frame_vq needs none"
        )
    if agent.view == "tokens":
        yield (
            "agent.view=tokens with agent.tokenizer.kind=delta_vq: delta tokens do not show a "
            "whole frame, as those of agent.tokenizer.kind=frame_vq do"
        )
    dynamics = agent.dynamics
    if isinstance(dynamics, TransformerSettings) and isinstance(
        dynamics.layout, TokenLayoutSettings | PackedLayoutSettings
    ):
        yield (
            f"agent.dynamics.layout.kind={dynamics.layout.kind} with agent.tokenizer.kind=delta_vq:"
            " delta tokens do not show a whole frame, as those of agent.tokenizer.kind=frame_vq do"
        )


SHOWS = {
    "frame": "frames",
    "reconstruction": "frames",
    "tokens": "tokens",
    "latent": "features",
}
"""What each view gives the policy."""


def _sight(agent: AgentSettings) -> Iterator[str]:
    """Frames are for networks that see, tokens and features for others."""
    kind, shown = agent.actor_critic.kind, SHOWS[agent.view]
    wanted = agent.actor_critic.reads
    if shown in wanted:
        return
    reader = next(word for word, cls in ACTOR_CRITICS.items() if shown in cls.reads)
    views = [word for word, what in SHOWS.items() if what in wanted]
    yield (
        f"agent.view={agent.view} with agent.actor_critic.kind={kind}: it reads "
        f"{' or '.join(wanted)}, which agent.view={' or '.join(views)} shows; "
        f"agent.actor_critic.kind={reader} reads {shown}"
    )


def _latent(agent: AgentSettings) -> Iterator[str]:
    """Features are those of the window that imagination starts from, and acting has no other."""
    if agent.view != "latent":
        return
    if agent.behaviour.model_context is not None:
        yield (
            f"agent.behaviour.model_context={agent.behaviour.model_context} with agent.view=latent:"
            " the policy sees what the world model does; agent.behaviour.context is for both"
        )
    if agent.behaviour.context < 1:
        yield (
            "agent.behaviour.context=0 with agent.view=latent: features of one frame alone know "
            "nothing of the past, and this policy has no other memory"
        )


def longest_dream(agent: AgentSettings) -> int | None:
    """Most steps of a dream and the real past before it, together; None where there is no end.

    The blind layout has nothing to start anew from unless frames are drawn.
    """
    dynamics = agent.dynamics
    if not isinstance(dynamics, TransformerSettings):
        return None
    blind = isinstance(dynamics.layout, BlindLayoutSettings)
    return dynamics.blocks - 1 if blind and SHOWS[agent.view] != "frames" else None


def _heads(settings: TransformerSettings | TokenTransformerSettings, at: str) -> Iterator[str]:
    if settings.width % settings.heads:
        yield (f"{at}width={settings.width} is not divisible by {at}heads={settings.heads}")


def _transformer(config: Config) -> Iterator[str]:
    dynamics, behaviour = config.agent.dynamics, config.agent.behaviour
    if not isinstance(dynamics, TransformerSettings):
        return
    layout = dynamics.layout
    if isinstance(layout, PackedLayoutSettings) and not isinstance(dynamics, FactorisedSettings):
        yield (
            f"agent.dynamics.layout.kind=packed with agent.dynamics.kind={dynamics.kind}: it gives "
            "tokens no position of their own, and only agent.dynamics.kind=factorised needs none"
        )
    if isinstance(layout, FrameLayoutSettings):
        if isinstance(dynamics, FactorisedSettings) and dynamics.max_offset:
            yield (
                f"agent.dynamics.max_offset={dynamics.max_offset} with agent.dynamics.layout.kind="
                f"{layout.kind}: its tokens may only tell changes; agent.dynamics.max_offset=0, or "
                "agent.dynamics.layout.kind=packed or token"
            )
        embedded = layout.grid**2 * layout.latent
        if layout.grid == int(layout.grid) and embedded != dynamics.width:
            yield (
                f"agent.dynamics.width={dynamics.width} must be grid x grid x latent of its layout:"
                f" {layout.grid:.0f} x {layout.grid:.0f} x {layout.latent} = {embedded:.0f}"
            )
    name, context = "context", behaviour.context
    if behaviour.model_context is not None and behaviour.model_context < context:
        name, context = "model_context", behaviour.model_context
    needed = context + behaviour.horizon + 1
    if dynamics.blocks < needed:
        yield (
            f"agent.dynamics.blocks={dynamics.blocks} is too few for imagination: "
            f"agent.behaviour.{name}={context} + "
            f"agent.behaviour.horizon={behaviour.horizon} + 1 = {needed}"
        )
    frames = config.agent.phases.world_model.frames
    if frames > dynamics.blocks:
        yield (
            f"agent.phases.world_model.frames={frames} is more than the transformer remembers: "
            f"agent.dynamics.blocks={dynamics.blocks}"
        )


def _schedule(config: Config) -> Iterator[str]:
    if config.run.first_steps > config.run.steps:
        yield (
            f"run.first_steps={config.run.first_steps} is more than all steps, "
            f"run.steps={config.run.steps}"
        )
    env = config.env
    if isinstance(env, AtariSettings) and env.max_frames < env.frame_skip:
        yield (
            f"env.max_frames={env.max_frames} is less than one step, "
            f"env.frame_skip={env.frame_skip}"
        )
