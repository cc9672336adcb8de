"""What must hold between the settings of diffusion dynamics and of what they denoise."""

from __future__ import annotations

from collections.abc import Iterator

from runners.settings.diffusion import DiffusionSettings
from runners.settings.noise import (
    Copilot4DSettings,
    GroupedSettings,
    HybridSettings,
    PlannedSettings,
    ReverseSettings,
    ReviseSettings,
    UniformSettings,
)
from runners.settings.tokenizers import PatchNnSettings, TokenizerSettings

AT = "agent.dynamics."


def check_diffusion(dynamics: DiffusionSettings, tokenizer: TokenizerSettings) -> Iterator[str]:
    """A line for each pair of settings that contradict each other."""
    yield from _steps(dynamics, tokenizer)
    yield from _kinds(dynamics)
    yield from _objectives(dynamics)
    if dynamics.width % (2 * dynamics.heads) and not dynamics.width % dynamics.heads:
        yield (
            f"{AT}width={dynamics.width} with {AT}heads={dynamics.heads}: a head of "
            f"{dynamics.width // dynamics.heads} numbers, which are turned in pairs, must be even"
        )


def _steps(dynamics: DiffusionSettings, tokenizer: TokenizerSettings) -> Iterator[str]:
    sampler, (name, tokens) = dynamics.sampler, tokens_of(tokenizer)
    if isinstance(sampler, GroupedSettings) and sampler.steps > tokens:
        yield (
            f"{AT}sampler.steps={sampler.steps} is more than {name}: every step reveals at least "
            f"one token, so {tokens} are enough"
        )


def tokens_of(tokenizer: TokenizerSettings) -> tuple[str, int]:
    """How many tokens a frame has, and what says so."""
    if isinstance(tokenizer, PatchNnSettings):
        tokens = (64 // tokenizer.patch) ** 2
        return f"the {tokens} tokens of agent.tokenizer.patch={tokenizer.patch}", tokens
    tokens = tokenizer.model_dump()["tokens"]
    return f"agent.tokenizer.tokens={tokens}", tokens


def _kinds(dynamics: DiffusionSettings) -> Iterator[str]:
    """What a sampler shows to the denoiser must be what the denoiser has learned from."""
    process, sampler = dynamics.process, dynamics.sampler
    both = f"{AT}sampler.kind={sampler.kind} with {AT}process.kind={process.kind}"
    reverse = isinstance(sampler, ReverseSettings)
    if isinstance(process, UniformSettings) and not reverse:
        yield f"{both}: this noise has no masks to reveal; {AT}sampler.kind=reverse needs none"
    if isinstance(process, Copilot4DSettings) and reverse:
        yield f"{both}: this noise is no path in time that could be gone back"
    anew = isinstance(sampler, ReviseSettings) and sampler.visible == "resample"
    if (anew or isinstance(sampler, PlannedSettings)) and not isinstance(
        process, Copilot4DSettings | HybridSettings | UniformSettings
    ):
        yield (
            f"{both}: it draws shown tokens anew, which a denoiser of masks alone has not learned; "
            f"{AT}process.kind=copilot4d teaches it"
        )


def _objectives(dynamics: DiffusionSettings) -> Iterator[str]:
    shares = dynamics.objectives
    if not shares.clean + shares.corrupted + shares.alone:
        yield f"{AT}objectives: clean, corrupted and alone are all 0, so nothing would be learned"
    elif dynamics.guidance and not shares.alone:
        yield (
            f"{AT}guidance={dynamics.guidance:g} with {AT}objectives.alone=0: what a frame is "
            "without its past would never be learned"
        )
