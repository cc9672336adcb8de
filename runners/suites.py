"""What a suite brings to a report: axes of its charts, and published scores beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from envs.dmc_tasks import Published, published
from runners.charts import Marks
from runners.markdown import markdown_table
from runners.settings.config import Config
from runners.settings.environments import DMCSettings, GymSettings


@dataclass(frozen=True)
class Axes:
    """Names of the axes of returns by step, and the ends of the y axis where they are known."""

    x_name: str = "thousand steps"
    y_name: str = "return"
    y_range: tuple[float, float] | None = None


def axes(config: Config) -> Axes:
    """A step is a decision of the agent; where control steps are counted, it says how many."""
    env = config.env
    if isinstance(env, GymSettings):
        return Axes(y_name=f"return in {env.id}")
    if not isinstance(env, DMCSettings):
        return Axes()
    return Axes(
        f"thousand steps of the agent, {_control(env.action_repeat)} each",
        f"return in {env.task}",
        (0.0, 1000.0),
    )


def steps_text(config: Config, steps: int) -> str:
    """Steps with what published budgets count beside."""
    text = f"{steps:,} steps"
    if not isinstance(config.env, DMCSettings):
        return text
    return f"{text} ({_control(steps * config.env.action_repeat)})"


@dataclass(frozen=True)
class Literature:
    """Scores of others on the task of our runs, which had so many steps of `env.action_repeat`."""

    env: DMCSettings
    steps: int
    rows: Sequence[Published]

    @property
    def ours(self) -> int:
        """Our budget as others count it."""
        return self.steps * self.env.action_repeat

    @property
    def nearest(self) -> int:
        """The budget that ours is nearest to, by ratio, as learning curves are read."""
        budgets = sorted({row.control_steps for row in self.rows})
        return min(budgets, key=lambda budget: abs(math.log(budget / self.ours)))

    def numbers(self) -> dict[str, Any]:
        """For programs."""
        return {
            "control_steps": self.ours,
            "nearest": self.nearest,
            "published": [asdict(row) for row in self.rows],
        }

    def text(self) -> list[str]:
        """For readers: blocks of Markdown."""
        env, nearest = self.env, self.nearest
        times = "as many" if nearest == self.ours else f"{nearest / self.ours:.3g} times as many"
        words = (
            f"{env.task} from {env.observe}, as others report it. Our runs had {self.steps:,} "
            f"steps, {_control(env.action_repeat)} each, {self.ours:,} in all; the nearest "
            f"budget on file, in bold, is {nearest:,}, {times}. Ours are final evaluations. Some "
            "of these are means over the last games of training, and some methods plan before "
            "they act: envs/data/dmc_published.csv has the protocols."
        )
        if env.observe == "pixels" and env.quality == "fast":
            words += " Pictures of env.quality=fast are not those that others learned from."
        rows = [
            [
                row.method,
                f"**{row.control_steps:,}**"
                if row.control_steps == nearest
                else f"{row.control_steps:,}",
                f"{row.score:.0f}",
                f"{row.std:.0f}",
                f"{row.seeds}",
                row.source,
            ]
            for row in self.rows
        ]
        head = ["method", "control steps", "return", "std over seeds", "seeds", "source"]
        return ["## Published scores", words, markdown_table(head, rows)]

    def marks(self) -> Marks:
        """For a chart over thousands of our steps: the scores of the nearest budget."""
        return Marks(
            heading=("published, after", f"{self.nearest:,} control steps"),
            x=self.nearest / self.env.action_repeat / 1000,
            values={
                row.method: row.score for row in self.rows if row.control_steps == self.nearest
            },
        )


def literature(config: Config, steps: int) -> Literature | None:
    """None where nothing is on file."""
    if not isinstance(config.env, DMCSettings):
        return None
    rows = published(config.env.task, config.env.observe)
    return Literature(config.env, steps, rows) if rows else None


def _control(steps: int) -> str:
    return "1 control step" if steps == 1 else f"{steps:,} control steps"
