"""What the Custom Scalars tab of TensorBoard shows: four categories of charts, by tag."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT_DREAMS = (
    "Numbers and pictures under imagination/ are made while the run trains, from the newest "
    "episodes in replay, which the world model may have learned from. Those of episodes that it "
    "never saw: `tokendream imagine RUN`. imagination/return_mean is that of the policy's updates."
)
SUITE_SCORES = {"crafter": "crafter/score", "atari": "atari/hns"}


def with_band(tag: str) -> tuple[str, str, str]:
    """The tags of a mean and of the two ends of its 95 % interval."""
    return tag, f"{tag}_low", f"{tag}_high"


def horizon_marks(horizon: int) -> tuple[int, ...]:
    """The imagined steps whose errors are logged as scalars: the first, the fifth, the last."""
    return tuple(sorted({1, min(5, horizon), horizon}))


def entry_tag(entry: str) -> str:
    """What stands in tags before what is told of one entry of an observation, "" of one alone."""
    return f"{entry}/" if entry else ""


def run_layout(
    suite: str, horizon: int, entries: Sequence[str]
) -> dict[str, dict[str, Sequence[Any]]]:
    """The charts of a training run, for `RunLog.layout`.

    entries: names of what the environment shows, "" of one thing alone.
    """
    marks = horizon_marks(horizon)
    overview: dict[str, Sequence[Any]] = {
        "return while collecting": ["episode/return"],
        "evaluation return, 95 % interval": [
            ("eval/return", "eval/return_ci_low", "eval/return_ci_high")
        ],
    }
    if suite in SUITE_SCORES:
        overview["score"] = [SUITE_SCORES[suite]]
    errors: dict[str, Sequence[Any]] = {}
    for entry in entries:
        errors |= _error_charts(entry, marks)
    return {
        "Overview": overview,
        "World model": errors | _world_model_charts(marks),
        "Policy": {
            "loss": ["policy/loss", "policy/value_loss"],
            "entropy": ["policy/entropy"],
            "imagined return": ["imagination/return_mean"],
        },
        "Speed": {
            "steps per second": ["speed/env_steps_s", "speed/dreamed_steps_s"],
            "updates per second": ["speed/updates_s"],
            "share of time": ["speed/share_.*"],
            "hours left": ["speed/hours_left"],
            "memory, GiB": ["memory/.*"],
        },
    }


def _error_charts(entry: str, marks: Sequence[int]) -> dict[str, Sequence[Any]]:
    """How far dreams of one entry are from what happened."""
    at, of = f"imagination/{entry_tag(entry)}", f" of {entry}" if entry else ""
    bands = [with_band(f"{at}mse_h{h}") for h in marks]
    copies = [with_band(f"{at}copy_mse_h{h}") for h in marks[-1:]]
    return {
        f"imagination error{of} by horizon, newest replay episodes, 95 % interval": bands + copies,
        f"imagination error{of} with another window's actions": [
            # These names are patterns.
            f"{re.escape(at)}misled_mse_h{h}"
            for h in marks
        ],
    }


def _world_model_charts(marks: Sequence[int]) -> dict[str, Sequence[Any]]:
    """What is told of tokenizer and world model, whatever the environment shows."""
    return {
        "losses": ["tokenizer/loss", "world_model/loss"],
        "nats a frame given the true past, of a denoiser the bound": [
            "world_model/nll",
            "imagination/nll",
            r"imagination/nll_at_\d+",
        ],
        "token accuracy": ["world_model/obs_accuracy"]
        + [f"imagination/token_accuracy_h{h}" for h in marks],
        "reward accuracy": ["world_model/reward_accuracy"],
        "reward error by horizon": [f"imagination/reward_error_h{h}" for h in marks],
        "codes in use": ["tokenizer/codes_in_use", "tokenizer/dead_codes"],
        "perplexity of all tokens and by position": [
            "tokenizer/perplexity",
            "tokenizer/slot_perplexity",
        ],
        "tokens changed in an epoch": ["tokenizer/churn"],
    }
