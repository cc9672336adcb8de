"""The whole pipeline learns: real steps, tokens, world model, then a policy only in imagination."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.probes import ChoiceGame
from runners.evaluate import play
from runners.settings.presets import names
from tests.runs import HARDWARE, games, small, trainer_of

WORDS = [
    "env.num_envs=8",
    "run.steps=400",
    "run.first_steps=400",
    "run.chunk_steps=400",
    "run.tail_epochs=4",
    "agent.behaviour.context=1",
    "agent.behaviour.horizon=2",
    "agent.behaviour.gamma=0.5",
    "agent.behaviour.lam=0.8",
    "agent.behaviour.entropy=0.1",
    "agent.behaviour.target_decay=0.9",
    # Which frame comes next is chance: those tokens must not drown the reward.
    "agent.dynamics.token_weight=0.5",
    "agent.dynamics.reward_weight=5",
    "agent.actor_critic.value=two_hot",
    "agent.phases.tokenizer.batch=8",
    "agent.phases.tokenizer.first_updates=100",
    "agent.phases.tokenizer.updates=0",
    "agent.phases.tokenizer.lr=1e-3",
    "agent.phases.world_model.batch=16",
    "agent.phases.world_model.frames=9",
    "agent.phases.world_model.first_updates=350",
    "agent.phases.world_model.updates=0",
    "agent.phases.world_model.lr=1e-3",
    "agent.phases.policy.batch=32",
    "agent.phases.policy.after_epoch=1",
    "agent.phases.policy.updates=100",
    "agent.phases.policy.lr=5e-4",
]
# What an agent needs beyond WORDS: some policies see nothing but what the tokenizer keeps.
FRAME_TOKENS = ["agent.phases.tokenizer.first_updates=250", "agent.dynamics.dropout=0"]
OWN = {
    "delta_iris": ["agent.actor_critic.hidden=64"],
    "delta_iris_tokens": ["agent.actor_critic.hidden=64", *FRAME_TOKENS],
    "iris": ["agent.actor_critic.hidden=64", *FRAME_TOKENS],
    "dart": ["agent.actor_critic.width=64", "agent.actor_critic.mlp=128", *FRAME_TOKENS],
    "diffusion": ["agent.actor_critic.width=64", "agent.actor_critic.mlp=128", *FRAME_TOKENS],
    "copilot4d": ["agent.actor_critic.width=64", "agent.actor_critic.mlp=128", *FRAME_TOKENS],
    "rem": ["agent.actor_critic.width=64", "agent.actor_critic.mlp=128", *FRAME_TOKENS],
}


@pytest.mark.slow
@pytest.mark.parametrize("agent", names("agent"))
def test_a_policy_learned_in_imagination_plays_for_real(tmp_path: Path, agent: str) -> None:
    """Random actions reach 2 of 8, knowing the frame 8; all 400 real steps were random ones."""
    config = small(*WORDS, *OWN.get(agent, FRAME_TOKENS), agent=agent)
    trainer = trainer_of(config, tmp_path, games(ChoiceGame, 8))
    trainer.run()
    assert trainer.at.steps == 400 and trainer.at.updates["policy"] == 400
    evaluation, _ = play(trainer.agent, games(ChoiceGame, 8), HARDWARE, episodes=64, seed=99)
    chance, _ = play(None, games(ChoiceGame, 8), HARDWARE, episodes=64, seed=99)
    assert chance.summary()["return_ci_high"] < 2.6
    assert evaluation.summary()["return_ci_low"] > 3.2
