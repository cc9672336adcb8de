"""Scores of finished games: of one evaluation, and of all that a run has collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from envs.experience import Finished
from envs.scores import ACHIEVEMENTS, crafter_score, human_normalised, success_rates
from runners.settings.config import Config
from runners.settings.environments import AtariSettings, CrafterSettings


@dataclass
class Tally:
    """How many Crafter games a run has finished, and how many of them unlocked what.

    The benchmark's score counts all training episodes within the budget.
    """

    games: int = 0
    unlocked: dict[str, int] = field(default_factory=dict)

    def add(self, finished: Sequence[Finished]) -> None:
        """Count games; those without achievements leave the tally empty."""
        for game in finished:
            if f"achievement/{ACHIEVEMENTS[0]}" not in game.stats:
                return
            self.games += 1
            for name in ACHIEVEMENTS:
                got = game.stats[f"achievement/{name}"] > 0
                self.unlocked[name] = self.unlocked.get(name, 0) + int(got)

    def rates(self) -> dict[str, float]:
        """Percent of games that unlocked each achievement."""
        return {name: 100 * count / self.games for name, count in self.unlocked.items()}

    def scalars(self) -> dict[str, float]:
        """`crafter/score` and the 22 `crafter/unlock/*`, in percent; nothing before a game."""
        if not self.games:
            return {}
        return _crafter(self.rates(), "crafter")


def evaluation_scores(config: Config, games: Sequence[Finished]) -> dict[str, float]:
    """The suite's own scores of an evaluation; none where the return is the score."""
    if isinstance(config.env, AtariSettings):
        mean = sum(game.ret for game in games) / len(games)
        return {"atari/hns": human_normalised(config.env.game, mean)}
    if isinstance(config.env, CrafterSettings):
        return _crafter(success_rates(games), "eval/crafter")
    return {}


def _crafter(rates: dict[str, float], prefix: str) -> dict[str, float]:
    unlocks = {f"{prefix}/unlock/{name}": rate for name, rate in rates.items()}
    return {f"{prefix}/score": crafter_score(rates), **unlocks}
