"""What finished games say about a policy: means, intervals, the record of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.experience import Finished
from runners.settings.environments import AtariSettings
from runners.tally import evaluation_scores
from runners.versions import describe_versions

if TYPE_CHECKING:
    from runners.opening import LoadedRun

# Samples for percentile intervals: enough for stable second digits, milliseconds to draw.
RESAMPLES = 10_000
PACKAGES = (
    "tokendream",
    "torch",
    "numpy",
    "ale-py",
    "crafter",
    "dm-control",
    "mujoco",
    "gymnasium",
)


@dataclass(frozen=True)
class Evaluation:
    """Finished games of one policy."""

    games: list[Finished]

    @property
    def returns(self) -> np.ndarray:
        """Unclipped return of each game."""
        return np.array([g.ret for g in self.games])

    def summary(self) -> dict[str, float]:
        """Mean, median, 95 % bootstrap interval of the mean, mean length."""
        low, high = interval(self.returns)
        return {
            "return": float(self.returns.mean()),
            "return_median": float(np.median(self.returns)),
            "return_ci_low": low,
            "return_ci_high": high,
            "length": float(np.mean([g.length for g in self.games])),
        }


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def evaluation_record(run: LoadedRun, policy: str, evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON: result, protocol, versions, every game."""
    config, games = run.config, evaluation.games
    protocol: dict[str, Any] = {
        "env": config.presets.env,
        "suite": config.env.suite,
        **_rules(config.env.model_dump()),
    }
    if isinstance(config.env, AtariSettings):
        protocol |= {"noop_max": config.env.eval_noop_max, "life_loss": False}
    versions = describe_versions()
    packages = {name: versions["packages"].get(name) for name in PACKAGES}
    return {
        "agent": config.presets.agent,
        "size": config.presets.size,
        "policy": policy,
        "checkpoint": run.source.name,
        "steps": run.step,
        "training_seed": config.seed,
        "episodes": len(games),
        **evaluation.summary(),
        "scores": evaluation_scores(config, games),
        "protocol": protocol,
        "hardware": run.hardware.describe(),
        "versions": {**versions, "packages": packages},
        "games": [{"env": g.env, "return": g.ret, "length": g.length, **g.stats} for g in games],
    }


def evaluation_table(record: dict[str, Any]) -> str:
    """The result in a few plain lines."""
    rows = [
        ("policy", f"{record['policy']}, checkpoint {record['checkpoint']}"),
        (
            "return",
            f"mean {record['return']:.2f}, 95 % interval {record['return_ci_low']:.2f} to "
            f"{record['return_ci_high']:.2f}, median {record['return_median']:.2f}",
        ),
        ("length", f"mean {record['length']:.0f} steps of {record['episodes']} episodes"),
    ]
    rows += scores_in_words(record["scores"]).items()
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {words}" for name, words in rows)


def scores_in_words(scores: Mapping[str, float]) -> dict[str, str]:
    """The suite's own scores, by tags of the log, for people."""
    return {
        _title(tag): f"{value:.3g}" + (" %" if "crafter" in tag else "")
        for tag, value in scores.items()
    }


def _rules(env: dict[str, Any]) -> dict[str, Any]:
    """The settings of the games themselves, not of how they are run."""
    hidden = ("suite", "num_envs", "workers", "eval_noop_max")
    return {name: value for name, value in env.items() if name not in hidden}


def _title(tag: str) -> str:
    if tag == "atari/hns":
        return "human-normalised score"
    return tag.rpartition("/")[2].replace("_", " ") if "unlock" in tag else "Crafter score"
