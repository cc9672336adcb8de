"""Things to see and to do, of every kind, and random numbers of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.experience import EnvSpec
from envs.spaces import (
    ActSpace,
    Categories,
    Continuous,
    Discrete,
    Image,
    MultiDiscrete,
    ObsSpace,
    Space,
    Vector,
)
from worldmodels.protocols import Tokenizer

# Of uneven sizes, in an order that is not that of their kinds.
SPACES: dict[str, Space] = {
    "all": {"state": Vector(3), "pixels": Image((64, 64, 3)), "kind": Categories((3, 5))},
    "numbers": {"kind": Categories((2, 6, 4)), "state": Vector(2), "more": Vector(1)},
    "vector": Vector(3),
    "pair": Vector(2),
    "categories": Categories((4, 2, 3)),
    "image": Image((64, 64, 3)),
}
_BINS = "agent.actions.bins=5"
# An action space and the words that say how it is told.
ACTIONS: dict[str, tuple[ActSpace, tuple[str, ...]]] = {
    "discrete": (Discrete(5), ()),
    "floats": (Continuous(2), ()),
    "bins": (Continuous(2), ("agent.actions.form=bins", _BINS)),
    "tokens": (Continuous(3), ("agent.actions.form=tokens", _BINS)),
    "multi": (MultiDiscrete((3, 2, 4)), ("agent.actions.form=tokens",)),
}
_WHOLE = "agent.tokenizer.kind=frame_vq"
_STEPS = "agent.dynamics.sampler.steps=2"
_VECTORS = {
    "bins": ("agent.vectors.grid=symlog", "agent.vectors.values=9"),
    "mlp": ("agent.vectors.kind=mlp", "agent.vectors.tokens=2", "agent.vectors.hidden=16"),
}


def spec_of(obs: str, act: str) -> EnvSpec:
    """An environment of SPACES and ACTIONS."""
    return EnvSpec(SPACES[obs], ACTIONS[act][0])


def words_of(
    act: str, dynamics: str, layout: str, view: str = "frame", vectors: str = "bins"
) -> tuple[str, ...]:
    """The settings of an agent that is told of actions so, thinks so, and sees so."""
    whole = view in ("tokens", "reconstruction") or layout in ("packed", "token")
    return (
        *_VECTORS[vectors],
        *ACTIONS[act][1],
        *([_WHOLE] if whole else []),
        *([_STEPS] if dynamics == "diffusion" else []),
        f"agent.dynamics.kind={dynamics}",
        f"agent.dynamics.layout.kind={layout}",
        f"agent.view={view}",
    )


def random_of(space: ObsSpace | ActSpace, lead: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Random values (*lead,*O) of a space."""
    if isinstance(space, Image):
        return torch.randint(0, 256, (*lead, *space.shape), generator=rng, dtype=torch.uint8)
    if isinstance(space, Vector):
        return torch.randn(*lead, space.size, generator=rng) * 3
    if isinstance(space, Continuous):
        return torch.rand(*lead, space.size, generator=rng) * 2 - 1
    if isinstance(space, Discrete):
        return torch.randint(0, space.n, lead, generator=rng)
    sizes = torch.tensor(space.sizes)
    return (torch.rand(*lead, len(sizes), generator=rng) * sizes).long()


def random_tokens(tokenizer: Tokenizer, lead: tuple[int, ...], seed: int = 3) -> Tensor:
    """Tokens (*lead,K), in each place any of those that stand for something there."""
    rng, known = torch.Generator().manual_seed(seed), tokenizer.known()
    if known is None:
        known = torch.ones(tokenizer.tokens, tokenizer.vocab)
    drawn = known.float().multinomial(math.prod(lead), replacement=True, generator=rng)
    return drawn.T.reshape(*lead, tokenizer.tokens)


def another(space: ActSpace, act: Tensor, dim: int, step: int) -> Tensor:
    """Actions (B,T,*A) with another number in one dimension, if there are some, of one step."""
    changed = act.clone()
    if isinstance(space, Discrete):
        changed[:, step] = (act[:, step] + 1) % space.n
    elif isinstance(space, Continuous):
        changed[:, step, dim] = act[:, step, dim] % 2 - 1
    else:
        changed[:, step, dim] = (act[:, step, dim] + 1) % space.sizes[dim]
    return changed
