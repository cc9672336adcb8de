"""Error by horizon: how far the dream has drifted from reality after h imagined steps."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.trees import named
from runners.charts import Line, line_chart
from runners.drawing import BLUE, FAINT, ORANGE, PURPLE
from runners.frame_errors import measure_of
from runners.intervals import half_over_groups
from runners.log_layout import entry_tag, horizon_marks

if TYPE_CHECKING:
    from runners.rollout import Comparison

OF_MOMENTS = ("token_accuracy", "reward_error", "end_error")
"""What is not told of one entry of an observation."""


@dataclass(frozen=True)
class Band:
    """A mean for each horizon 1..H and the ends of its 95 % interval, all (H,).

    Windows of one episode are alike: the interval is over episodes, and NaN with a single one.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class HorizonReport:
    """Bands by name, over `num_windows` windows of `num_episodes` episodes, `source` in words.

    Of one thing that the environment shows: `entry` is its name, "" of one that is alone.
    mse, copy_mse, recon_mse: errors in `unit` of the dream, of repeating the last frame seen, and
    of the tokenizer given the true frame before. misled_mse: of a dream that is told another
    window's actions, NaN with a single window; no larger than mse where a world model does not
    listen to actions. recon_l1, of a vector: absolute, in the units of the environment.
    Of whole moments: token_accuracy: share in [0,1]. reward_error: absolute. end_error: absolute,
    of the probability.
    """

    bands: dict[str, Band]
    num_windows: int
    num_episodes: int
    num_seen: int
    source: str
    unit: str
    entry: str = ""

    @property
    def horizon(self) -> int:
        """Number of imagined steps."""
        return len(self.bands["mse"].mean)

    def scalars(self) -> dict[str, float]:
        """The numbers to log at a few horizons, such as imagination/mse_h15 and its interval.

        Of one entry of several, imagination/ENTRY/mse_h15.
        """
        values: dict[str, float] = {}
        for h in horizon_marks(self.horizon):
            for name, band in self.bands.items():
                of = "" if name in OF_MOMENTS else entry_tag(self.entry)
                tag = f"imagination/{of}{name}_h{h}"
                values[tag] = float(band.mean[h - 1])
                if name in ("mse", "copy_mse") and self.num_episodes > 1:
                    values[f"{tag}_low"] = float(band.low[h - 1])
                    values[f"{tag}_high"] = float(band.high[h - 1])
        return values

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file; NaN becomes None."""

        def listed(numbers: np.ndarray) -> list[float | None]:
            return [float(x) if math.isfinite(x) else None for x in numbers]

        bands = {
            name: {"mean": listed(b.mean), "low": listed(b.low), "high": listed(b.high)}
            for name, b in self.bands.items()
        }
        return {
            "num_windows": self.num_windows,
            "num_episodes": self.num_episodes,
            "num_seen": self.num_seen,
            "source": self.source,
            "horizon": list(range(1, self.horizon + 1)),
            "entry": self.entry,
            "unit": self.unit,
            "interval": "95 %, Student's t over episodes, cluster-robust",
            **bands,
        }

    def csv(self) -> str:
        """One line for each horizon."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [f"{n}{end}" for n in self.bands for end in ("", "_low", "_high")]
        writer.writerow(["horizon", *names])
        columns = [c for b in self.bands.values() for c in (b.mean, b.low, b.high)]
        for h, row in enumerate(np.stack(columns, 1), start=1):
            writer.writerow([h, *(f"{x:.6g}" for x in row)])
        return text.getvalue()

    def chart(self) -> np.ndarray:
        """The errors against the horizon, (H,W,3) uint8."""
        looks = (
            ("copy_mse", "copy last frame", FAINT, True),
            ("misled_mse", "other actions", PURPLE, True),
            ("mse", "imagination", ORANGE, False),
            ("recon_mse", "reconstruction", BLUE, False),
        )
        lines = []
        for key, name, colour, dashed in looks:
            band = self.bands[key]
            lines.append(Line(name, band.mean, band.low, band.high, colour, dashed))
        return line_chart(
            np.arange(1.0, self.horizon + 1),
            lines,
            title=f"Error{self.of()} by horizon, {self.num_windows} windows of {self.words()}",
            x_name="imagined steps",
            y_name=f"{self.unit}; 95 % interval over episodes",
        )

    def of(self) -> str:
        """Of what, in words, where the environment shows several things."""
        return f" of {self.entry}" if self.entry else ""

    def words(self) -> str:
        """How many episodes of which kind."""
        return f"{self.num_episodes} {self.source} episode{'s' * (self.num_episodes > 1)}"


def reports_of(
    comparison: Comparison, episode: np.ndarray, source: str
) -> dict[str, HorizonReport]:
    """The errors of windows already dreamed, by entry of the observation.

    episode (B,) says which windows belong together.
    """
    c, seen, count = comparison, comparison.num_seen, len(np.unique(episode))
    end_true = c.end_true[:, seen:].astype(np.float32)
    of_moments = {
        "token_accuracy": c.token_accuracy,
        "reward_error": np.abs(c.rew_pred - c.rew_true)[:, seen:],
        "end_error": np.abs(c.end_prob[:, seen:] - end_true),
    }
    recon, dream, misled = named(c.recon), named(c.dream), named(c.misled)
    reports = {}
    for entry, frames in named(c.real).items():
        measure, real, rebuilt = measure_of(frames), frames[:, seen:], recon[entry][:, seen:]
        errors = {
            "mse": measure.error(dream[entry][:, seen:], real),
            "copy_mse": measure.error(frames[:, seen - 1 : seen], real),
            "recon_mse": measure.error(rebuilt, real),
            "misled_mse": measure.error(misled[entry], real)
            if len(real) > 1
            else np.full(c.token_accuracy.shape, np.nan),
            **measure.of_recon(rebuilt, real),
            **of_moments,
        }
        bands = {name: band_of(rows, episode) for name, rows in errors.items()}
        reports[entry] = HorizonReport(bands, len(real), count, seen, source, measure.unit, entry)
    return reports


def band_of(rows: np.ndarray, episode: np.ndarray) -> Band:
    """The mean over rows (B,H), of the episodes (B,), and its interval."""
    mean, half = rows.mean(axis=0, dtype=np.float64), half_over_groups(rows, episode)
    # None of these numbers can be negative.
    return Band(mean, np.maximum(mean - half, 0.0), mean + half)
