"""What the Custom Scalars tab of TensorBoard shows: four categories of charts, by tag."""

from __future__ import annotations

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


def run_layout(suite: str, horizon: int) -> dict[str, dict[str, Sequence[Any]]]:
    """The charts of a training run, for `RunLog.layout`."""
    marks = horizon_marks(horizon)
    overview: dict[str, Sequence[Any]] = {
        "return while collecting": ["episode/return"],
        "evaluation return, 95 % interval": [
            ("eval/return", "eval/return_ci_low", "eval/return_ci_high")
        ],
    }
    if suite in SUITE_SCORES:
        overview["score"] = [SUITE_SCORES[suite]]
    errors = [with_band(f"imagination/mse_h{h}") for h in marks]
    copies = [with_band(f"imagination/copy_mse_h{h}") for h in marks[-1:]]
    return {
        "Overview": overview,
        "World model": {
            "imagination error by horizon, newest replay episodes, 95 % interval": errors + copies,
            "imagination error with another window's actions": [
                f"imagination/misled_mse_h{h}" for h in marks
            ],
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
        },
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
