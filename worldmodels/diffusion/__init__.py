"""Discrete diffusion of tokens without its network: noise, losses, bounds and samplers.

Samplers stand here by the name that `agent.dynamics.sampler.kind` selects.
"""

from collections.abc import Callable

from worldmodels.diffusion.ancestral import Ancestral, Remask, Reverse
from worldmodels.diffusion.reveal import Confidence, EntropyBounded, EventFirst, Random
from worldmodels.diffusion.revise import Copilot4D, Gibbs, Planned
from worldmodels.diffusion.sampling import Sampler

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ancestral": Ancestral,
    "confidence": Confidence,
    "copilot4d": Copilot4D,
    "entropy_bounded": EntropyBounded,
    "event_first": EventFirst,
    "gibbs": Gibbs,
    "planned": Planned,
    "random": Random,
    "remask": Remask,
    "reverse": Reverse,
}
