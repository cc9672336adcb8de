"""A policy that learned in dreams of vectors plays games whose best return is known."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from envs.probes import TargetGame
from envs.spaces import Continuous, Discrete
from runners.evaluate import play
from tests.runs import HARDWARE, games, small, trainer_of

WORDS = [
    "env.num_envs=8",
    "run.steps=400",
    "run.first_steps=400",
    "run.chunk_steps=400",
    "run.tail_epochs=2",
    "agent.vectors.grid=core_tails",
    "agent.vectors.values=9",
    "agent.behaviour.context=1",
    "agent.behaviour.horizon=2",
    "agent.behaviour.gamma=0.5",
    "agent.behaviour.epsilon=0",
    "agent.behaviour.target_decay=0.9",
    # What is shown next is chance: those tokens must not drown the reward.
    "agent.dynamics.max_offset=0",
    "agent.dynamics.token_weight=0.1",
    "agent.dynamics.reward_weight=5",
    "agent.actor_critic.hidden=64",
    "agent.phases.world_model.batch=32",
    "agent.phases.world_model.frames=9",
    "agent.phases.world_model.first_updates=300",
    "agent.phases.world_model.updates=0",
    "agent.phases.world_model.lr=1e-3",
    "agent.phases.policy.batch=64",
    "agent.phases.policy.after_epoch=1",
    "agent.phases.policy.updates=150",
    "agent.phases.policy.lr=1e-3",
]


BINS = ("actions.form=tokens", "actions.bins=9", "policy.kind=binned", "policy.bins=9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "words", "chance", "learned"),
    [
        (Discrete(4), (), 2.6, 6.0),
        (Continuous(2), (), -4.0, -1.3),
        # Of more values, 400 steps show each too seldom.
        (Continuous(2), BINS, -4.0, -2.3),
    ],
)
def test_a_policy_learned_in_dreams_of_numbers_plays_for_real(
    tmp_path: Path,
    act: Discrete | Continuous,
    words: tuple[str, ...],
    chance: float,
    learned: float,
) -> None:
    """Of 8 right choices chance finds 2; of -8 chance loses 5.3, who stays still 2.7."""
    make = functools.partial(TargetGame, act)
    own = [f"agent.{word}" for word in words]
    trainer = trainer_of(
        small(*WORDS, *own, agent="state_tokens", env="gym"), tmp_path, games(make, 8)
    )
    trainer.run()
    assert trainer.at.steps == 400 and trainer.at.updates["policy"] == 300
    evaluation, _ = play(trainer.agent, games(make, 8), HARDWARE, episodes=64, seed=99)
    random, _ = play(None, games(make, 8), HARDWARE, episodes=64, seed=99)
    assert random.summary()["return_ci_high"] < chance
    assert evaluation.summary()["return_ci_low"] > learned
