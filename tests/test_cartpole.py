"""The preset of CartPole learns on the real game in minutes; docs/results has whole runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.make import make_env
from runners.evaluate import play
from runners.settings.load import load
from tests.runs import HARDWARE, trainer_of

FEW = "device=cpu precision=float32 threads=1 run.steps=2400 run.first_steps=2000 env.workers=0"


@pytest.mark.slow
def test_it_balances_for_longer_than_chance_after_an_epoch_of_learning(tmp_path: Path) -> None:
    config = load(["env=cartpole", "seed=0", *FEW.split()]).config
    settings = config.env.model_dump()
    trainer = trainer_of(config, tmp_path, make_env(settings, num_envs=8))
    trainer.run()
    env = make_env(settings, num_envs=16)
    agent, _ = play(trainer.agent, env, HARDWARE, episodes=32, seed=5)
    chance, _ = play(None, env, HARDWARE, episodes=200, seed=5)
    # 22 steps at random, of 500.
    assert np.median(chance.returns) < 30
    assert agent.summary()["return_ci_low"] > 2 * chance.summary()["return_ci_high"]
