"""Discrete diffusion of tokens without its network: noise, losses, bounds and samplers.

Samplers stand here by the name that `agent.dynamics.sampler.kind` selects.
"""

from collections.abc import Callable

from worldmodels.diffusion.reveal import Confidence, EntropyBounded, EventFirst, Random
from worldmodels.diffusion.sampling import Sampler

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "random": Random,
    "confidence": Confidence,
    "entropy_bounded": EntropyBounded,
    "event_first": EventFirst,
}
