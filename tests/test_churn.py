"""How many tokens of the same frames an epoch changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.checkpoint import load, save
from runners.churn import FRAMES, Probe
from runners.opening import open_env
from runners.phases import Phase
from tests.nets import small_agent, windows
from tests.runs import HARDWARE, small, trainer_of
from worldmodels.batch import Batch


class Tokens:
    """A tokenizer of which one says what it answers."""

    def __init__(self) -> None:
        self.now = torch.zeros(3, 5, 4, dtype=torch.long)
        self.asked: list[Batch] = []

    def __call__(self, batch: Batch) -> Tensor:
        self.asked.append(batch)
        return self.now


PADDED = [(0, 4, 0), (2, 2, 0), (3, 0, 1)]


def test_churn_is_the_share_of_changed_tokens_of_valid_steps_since_the_last_look() -> None:
    tokens = Tokens()
    probe = Probe(tokens)
    assert probe.churn() == {}, "nothing to look at"
    probe.keep(windows(PADDED))
    assert probe.churn() == {}, "nothing to compare with"
    assert probe.churn()["churn"] == 0
    tokens.now = tokens.now.clone()
    tokens.now[0, 1, :3] = 7  # three tokens of the 24 of 6 valid steps
    tokens.now[1, 4, 0] = 7
    tokens.now[:, 0] = 7  # the first frames
    tokens.now[1, 1:3], tokens.now[2] = 7, 7  # padding
    assert probe.churn()["churn"].item() == pytest.approx(4 / 24)
    assert probe.churn()["churn"] == 0


def test_the_first_frames_are_kept_for_good() -> None:
    probe, first = Probe(Tokens()), windows(PADDED)
    expected = first.obs.clone()
    probe.keep(first)
    first.obs.zero_()
    probe.keep(windows(PADDED, seed=5))
    assert probe.batch is not None and torch.equal(probe.batch.obs, expected)
    probe = Probe(Tokens())
    probe.keep(windows([(0, 99, 0)] * 5))
    assert probe.batch is not None and probe.batch.obs.shape[:2] == (FRAMES // 100, 100)


def test_a_probe_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    tokens = Tokens()
    one, other = Probe(tokens), Probe(tokens)
    for filled in (False, True):
        if filled:
            one.keep(windows(PADDED))
            one.churn()
        save(tmp_path / "probe", {"probe": one.state_dict()})
        other.load_state_dict(load(tmp_path / "probe")["probe"], torch.device("cpu"))
    tokens.now = 1 - tokens.now
    assert one.churn() == other.churn() == {"churn": torch.tensor(1.0)}
    assert torch.equal(tokens.asked[-1].obs, tokens.asked[-2].obs)


def test_only_what_learns_tokens_has_a_probe_and_it_changes_nothing_else() -> None:
    agent, batch = small_agent(), windows([(0, 4, 0)] * 4)
    numbers: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.0, "clip": 10.0, "after_epoch": 0}
    counts = {"batch": 4, "frames": 5, "updates": 1, "first_updates": 1}
    phases = [Phase(learner, HARDWARE, **numbers, **counts) for learner in agent.learners()]
    assert [phase.name for phase in phases if phase.probe] == ["tokenizer"]
    tokenizer = phases[0]
    tokenizer.update(batch)
    assert tokenizer.settle() == {}
    before, rng = [p.clone() for p in agent.parameters()], torch.get_rng_state()
    assert tokenizer.settle()["churn"] == 0
    assert all(torch.equal(p, b) for p, b in zip(agent.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    for _ in range(5):
        tokenizer.update(batch)
    assert 0 < tokenizer.settle()["churn"] <= 1


def test_a_run_logs_churn_once_an_epoch_from_the_second_on(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    config = small("agent.phases.tokenizer.lr=0.01")
    env = open_env(config, num_envs=config.env.num_envs, workers=0, training=True)
    trainer_of(config, tmp_path, env, on_epoch=lambda scalars, _: seen.append(scalars)).run()
    env.close()
    assert ["tokenizer/churn" in scalars for scalars in seen] == [False] + [True] * (len(seen) - 1)
    assert any(0 < scalars["tokenizer/churn"] <= 1 for scalars in seen[1:])
