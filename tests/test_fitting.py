"""Agents whose settings cannot work in what an environment shows are refused by these settings."""

from __future__ import annotations

import pytest
import torch

from envs.experience import EnvSpec
from envs.spaces import Categories, Discrete, Image, Space, Vector
from runners.errors import UserError
from runners.fitting import check_fit
from runners.opening import new_agent
from runners.settings.load import load
from tests.runs import HARDWARE
from worldmodels.batch import played

SIDE_96 = Image((96, 96, 3))


@pytest.mark.parametrize(
    ("words", "shown", "said"),
    [
        ("agent=iris", SIDE_96, "agent.tokenizer.patch=.*tokens=16 need a multiple of 64"),
        ("agent=iris", Image((72, 72, 3)), "convolutions of agent.actor_critic need a multiple"),
        ("agent=delta_iris", SIDE_96, "agent.dynamics.layout.kind=delta looks at pictures of 64x"),
        ("agent=iris", {"a": Categories((9, 10**6))}, "observation 'a' is one of 1000000 cat"),
    ],
)
def test_what_does_not_fit_names_its_setting(words: str, shown: Space, said: str) -> None:
    config = load([*words.split(), "size=tiny"]).config
    with pytest.raises(UserError, match=said):
        new_agent(config, EnvSpec(shown, Discrete(2)), HARDWARE)


def test_networks_for_pictures_do_not_matter_where_there_are_none() -> None:
    config = load(["agent=delta_iris"]).config
    check_fit(config.agent, EnvSpec(Vector(3), Discrete(2)))


@pytest.mark.parametrize("words", ["agent=iris", "agent=iris agent.tokenizer.kind=patch_nn"])
def test_other_pictures_that_fit_can_be_learned(words: str) -> None:
    config = load([*words.split(), "env=atari", "size=tiny"]).config
    agent = new_agent(config, EnvSpec(Image((128, 128, 3)), Discrete(2)), HARDWARE)
    frames = torch.zeros(1, 2, 128, 128, 3, dtype=torch.uint8)
    window = played(frames, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1).bool())
    agent.world_model.tokenizer.loss(window)
    seen = agent.view.real(agent.world_model, window)
    agent.actor_critic(seen, agent.actor_critic.initial(1))
