"""Agents of all things to see and to do: what they refuse, act, carry and learn."""

from __future__ import annotations

import pytest

from envs.experience import EnvSpec
from envs.spaces import Continuous, Vector
from runners.errors import UserError
from runners.opening import new_agent
from tests.runs import HARDWARE, small


def test_a_sampler_of_more_steps_than_a_frame_has_tokens_is_the_users_mistake() -> None:
    config = small("agent.dynamics.sampler.steps=4", agent="diffusion", env="gym")
    wrong = r"agent\.dynamics\.sampler: a frame of 3 tokens takes 1 to 3 steps, not 4"
    with pytest.raises(UserError, match=wrong):
        new_agent(config, EnvSpec(Vector(3), Continuous(1)), HARDWARE)
