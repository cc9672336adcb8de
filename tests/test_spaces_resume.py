"""Grids are laid once, on what the first steps showed, wherever a run stops and goes on."""

from __future__ import annotations

import contextlib
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.experience import EnvSpec
from envs.probes import CountingDictGame, TargetGame
from envs.spaces import Continuous, Obs
from envs.trees import named
from runners.checkpoint import load, save
from runners.settings.config import Config
from runners.settings.load import load as read
from runners.train import restore
from runners.trainer import Stopped, Trainer
from tests.runs import differences, essence, games, trainer_of, words_of
from worldmodels.tokenizers.bins import Bins
from worldmodels.tokenizers.vector_mlp import VectorMlp

# One stretch of seven steps at a time; 3 environments.
WORDS = (
    "run.steps=45",
    "run.tail_epochs=0",
    "agent.phases.tokenizer.first_updates=2",
    "agent.phases.tokenizer.updates=1",
    "agent.phases.world_model.first_updates=2",
    "agent.phases.world_model.updates=1",
    "agent.phases.policy.first_updates=2",
    "agent.phases.policy.updates=1",
)
MLP = ("agent.vectors.kind=mlp", "agent.vectors.tokens=2", "agent.vectors.hidden=8")


class TwoGame(CountingDictGame):
    """`CountingDictGame` without its pictures."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        assert isinstance(self.spec.obs, dict)
        shown = {name: self.spec.obs[name] for name in ("state", "kind")}
        self.spec = EnvSpec(shown, self.spec.act)

    def _see(self, frame: np.ndarray, act: np.ndarray) -> Obs:
        shown = super()._see(frame, act)
        return {name: shown[name] for name in ("state", "kind")}


def target() -> TargetGame:
    """Numbers alone."""
    return TargetGame(Continuous(2), 5)


GAMES: dict[str, Any] = {"alone": target, "several": TwoGame}


def config_of(*words: str) -> Config:
    """The settings of a run of 45 steps."""
    plain = (w for w in words_of("state_tokens", "gym") if not w.startswith("agent.vectors."))
    return read([*plain, *WORDS, *words]).config


def trainer_in(folder: Path, game: str, *words: str, **hooks: Any) -> Trainer:
    """A trainer of that game."""
    return trainer_of(config_of(*words), folder, games(GAMES[game]), **hooks)


def ended(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """What a run comes to, after a trip to disk."""
    with contextlib.suppress(Stopped):
        trainer.run()
    save(folder, trainer.state_dict())
    trainer.replay.close()
    return essence(load(folder))


@pytest.mark.parametrize(
    ("game", "words"),
    [
        ("alone", ("agent.vectors.grid=core_tails", "agent.vectors.values=17")),
        ("several", ("agent.vectors.grid=quantile", "agent.vectors.values=17")),
        ("several", MLP),
    ],
)
def test_a_run_stopped_at_every_moment_lays_the_same_grid(
    tmp_path: Path, game: str, words: tuple[str, ...]
) -> None:
    moments: list[str] = []
    whole = trainer_in(tmp_path / "whole", game, *words, on_progress=moments.append)
    end = ended(whole, tmp_path / "end")
    assert moments[0] == "collect" and moments.count("collect") > 5 and len(moments) >= 15
    fitted = []
    for life in range(len(moments)):
        more = iter([False]) if life + 1 < len(moments) else itertools.repeat(False)
        stop = functools.partial(next, more, True)
        trainer = trainer_in(tmp_path / "parts", game, *words, should_stop=stop)
        if life:
            restore(trainer, load(tmp_path / "stopped"), tmp_path / "stopped")
        again = ended(trainer, tmp_path / "stopped")
        fitted.append("fit_tokenizer" in trainer.at.done or trainer.at.epoch > 1)
    assert differences(end, again) == []
    assert fitted.index(True) == moments.index("tokenizer") - 1, "as soon as all was collected"


def frames_of(trainer: Trainer, name: str) -> torch.Tensor:
    """All vectors (N,D) that the run has seen so far, episode by episode."""
    replay = trainer.replay
    shown = (named(replay.episode(i).obs, name)[name] for i in range(replay.num_episodes))
    return torch.from_numpy(np.concatenate([*shown]))


@pytest.mark.parametrize(("game", "name"), [("alone", "it"), ("several", "state")])
def test_the_grid_is_that_of_all_first_frames_and_stays(
    tmp_path: Path, game: str, name: str
) -> None:
    words = ("agent.vectors.grid=quantile", "agent.vectors.values=17")
    expected: list[Bins] = []

    def look(what: str) -> None:
        if what == "tokenizer" and not expected:
            vectors = frames_of(trainer, name)
            assert len(vectors) > 30 and trainer.at.steps == 30
            expected.append(Bins(size=vectors.shape[1], grid="quantile", values=17))
            expected[0].fit(vectors)

    trainer = trainer_in(tmp_path, game, *words, on_progress=look)
    trainer.run()
    (bins,) = (part for part in trainer.agent.modules() if isinstance(part, Bins))
    assert torch.equal(bins.support, expected[0].support) and bool(bins.fitted)
    assert len(bins.support[0].unique()) == 17 and trainer.at.steps == 45


def test_a_running_scale_begins_with_the_first_frames(tmp_path: Path) -> None:
    found: list[torch.Tensor] = []

    def look(what: str) -> None:
        if what == "tokenizer" and not found:
            (net,) = (part for part in trainer.agent.modules() if isinstance(part, VectorMlp))
            vectors = frames_of(trainer, "state")
            symlog = vectors.sign() * vectors.abs().log1p()
            torch.testing.assert_close(net.scale.mean, symlog.mean(0))
            found.append(net.scale.variance - symlog.var(0, correction=0))

    trainer = trainer_in(tmp_path, "several", *MLP, on_progress=look)
    trainer.run()
    assert found[0].abs().max() < 1e-4
