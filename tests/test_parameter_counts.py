"""The paper-sized networks: parameters module by module, losses at the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from agents.agent import Agent
from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from runners.settings.load import load
from tests.nets import windows

CRAFTER = {
    "tokenizer": 5_409_611,
    "tokenizer.encoder": 1_892_992,
    "tokenizer.decoder": 1_548_867,
    "tokenizer.context": 1_761_608,
    "tokenizer.pre tokenizer.post": 132_160,
    "tokenizer.action_plane": 69_632,
    "tokenizer.action_map": 4_352,
    "tokenizer.quantizer": 0,
    "dynamics": 11_948_457,
    "dynamics.net.blocks": 9_457_152,
    "dynamics.net.position": 64_512,
    "dynamics.net.norm": 1_024,
    "dynamics.layout.frame dynamics.layout.frame_norm": 447_656,
    "dynamics.layout.token": 524_288,
    "dynamics.layout.action": 8_704,
    "dynamics.token_head": 787_968,
    "dynamics.reward_head": 393_471,
    "dynamics.end_head": 263_682,
    "policy": 3_745_216,
    "policy.encoder": 455_856,
    "policy.lstm": 3_149_824,
    "policy.actor": 8_721,
    "policy.critic": 130_815,
    "target": 3_745_216,
    "all": 24_848_500,
}
ATARI_18 = {
    "tokenizer": 4_126_643,
    "tokenizer.encoder": 1_892_992,
    "tokenizer.decoder": 1_567_299,
    "tokenizer.context": 455_856,
    "tokenizer.pre tokenizer.post": 132_160,
    "tokenizer.action_plane": 73_728,
    "tokenizer.action_map": 4_608,
    "dynamics": 3_580_841,
    "dynamics.net.blocks": 2_369_280,
    "dynamics.net.position": 39_936,
    "dynamics.net.norm": 512,
    "dynamics.layout.frame dynamics.layout.frame_norm": 442_532,
    "dynamics.layout.token": 262_144,
    "dynamics.layout.action": 4_608,
    "dynamics.token_head": 328_960,
    "dynamics.reward_head": 66_563,
    "dynamics.end_head": 66_306,
    "policy": 3_615_427,
    "policy.encoder": 455_856,
    "policy.lstm": 3_149_824,
    "policy.actor": 9_234,
    "policy.critic": 513,
    "target": 3_615_427,
    "all": 14_938_338,
}
ATARI_4 = {
    "tokenizer": 4_065_715,
    "dynamics": 3_577_257,
    "policy": 3_608_245,
    "target": 3_608_245,
    "all": 14_859_462,
}
# Totals as published; the parts are what they are made of. The dynamics' own embedding of codes
# is not the tokenizer's codebook.
IRIS_18 = {
    "tokenizer": 4_027_523,
    "tokenizer.encoder": 1_418_240,
    "tokenizer.decoder": 1_821_827,
    "tokenizer.pre tokenizer.post": 525_312,
    "tokenizer.quantizer": 262_144,
    "dynamics": 8_451_077,
    "dynamics.net.blocks": 7_897_600,
    "dynamics.net.position": 87_040,
    "dynamics.net.norm": 512,
    "dynamics.layout.token": 131_072,
    "dynamics.layout.action": 4_608,
    "dynamics.token_head": 197_376,
    "dynamics.reward_head": 66_563,
    "dynamics.end_head": 66_306,
    "policy": 3_225_139,
    "policy.encoder": 65_568,
    "policy.lstm": 3_149_824,
    "policy.actor": 9_234,
    "policy.critic": 513,
}
# Tokenizer and world model as IRIS has them; the published total leaves the policy 3.45 to 3.55
# million.
DART_18 = {
    "tokenizer": IRIS_18["tokenizer"],
    "dynamics": IRIS_18["dynamics"],
    "policy": 3_304_467,
    "policy.enter": 131_328,
    "policy.cls": 256,
    "policy.position": 4_608,
    "policy.blocks": 3_162_624,
    "policy.norm": 512,
    "policy.actor": 4_626,
    "policy.critic": 257,
    "target": 3_304_467,
}
# The world model has 4.3 million as published, with retention and without a table of tokens; the
# rest is made of the parts of others.
REM_18 = {
    "tokenizer": 3_836_067,
    "tokenizer.encoder": 1_454_240,
    "tokenizer.decoder": 2_119_171,
    "tokenizer.pre tokenizer.post": 131_584,
    "tokenizer.quantizer": 131_072,
    "dynamics": 4_614_661,
    "dynamics.net.blocks": 3_948_800,
    "dynamics.net.position": 183_040,
    "dynamics.net.norm": 512,
    "dynamics.query": 16_384,
    "dynamics.layout.token": 131_072,
    "dynamics.layout.action": 4_608,
    "dynamics.token_head": 197_376,
    "dynamics.reward_head": 66_563,
    "dynamics.end_head": 66_306,
    "policy": 3_251_219,
    "policy.enter": 65_792,
    "policy.position": 16_896,
    "target": 3_251_219,
}

# Not published, but counted by hand. d is 384; beside norms and biases a layer has 12 d^2 weights
# with one attention and 16 d^2 with two: 4 d^2 each, and 8 d^2 the perceptron. 17 slots of an
# action and a frame's tokens, and the readout.
DIFFUSION_18 = {
    "tokenizer": IRIS_18["tokenizer"],
    "dynamics": 13_424_773,
    "dynamics.net.trunk.layers": 4 * (12 * 384**2 + 13 * 384),
    "dynamics.net.trunk.norm dynamics.net.norm": 2 * 2 * 384,
    "dynamics.net.inject": 384**2 + 384,
    "dynamics.net.head": 3 * (12 * 384**2 + 13 * 384),
    "dynamics.slot": 18 * 384,
    "dynamics.mask": 384,
    "dynamics.enter": 2 * 384,
    "dynamics.layout.token": 512 * 384,
    "dynamics.layout.action": 18 * 384,
    "dynamics.token_head": 344_960,
    "dynamics.reward_head": 148_995,
    "dynamics.end_head": 148_610,
    "policy": DART_18["policy"],
}
COPILOT4D_18 = {k: v for k, v in DIFFUSION_18.items() if not k.startswith("dynamics.net")} | {
    "dynamics": 19_787_653,
    "dynamics.net.layers": 8 * (16 * 384**2 + 19 * 384),
    "dynamics.net.norm": 2 * 384,
}


def paper_agent(env: str, num_actions: int, agent: str = "delta_iris") -> Agent:
    config = load([f"env={env}", f"agent={agent}", "size=paper"]).config
    return build_agent(
        config.agent.model_dump(), EnvSpec(Image((64, 64, 3)), Discrete(num_actions))
    )


def count(agent: Agent, path: str) -> int:
    """Parameters of the module at a path; `all` is the whole agent."""
    roots = {
        "tokenizer": "world_model.tokenizer",
        "dynamics": "world_model.dynamics",
        "policy": "actor_critic",
        "all": "",
    }
    first, _, rest = path.partition(".")
    at = ".".join(x for x in (roots.get(first, first), rest) if x)
    module: nn.Module = agent.get_submodule(at)
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("agent", "env", "num_actions", "expected"),
    [
        ("delta_iris", "crafter", 17, CRAFTER),
        ("delta_iris", "atari", 18, ATARI_18),
        ("delta_iris", "atari", 4, ATARI_4),
        ("iris", "atari", 18, IRIS_18),
        ("dart", "atari", 18, DART_18),
        ("rem", "atari", 18, REM_18),
        ("diffusion", "atari", 18, DIFFUSION_18),
        ("copilot4d", "atari", 18, COPILOT4D_18),
    ],
)
def test_every_module_has_as_many_parameters_as_published(
    agent: str, env: str, num_actions: int, expected: dict[str, int]
) -> None:
    with torch.device("meta"):
        built = paper_agent(env, num_actions, agent)
    got = {paths: sum(count(built, path) for path in paths.split()) for paths in expected}
    assert got == expected


def test_a_denoiser_starts_by_fan_in() -> None:
    dynamics = paper_agent("atari", 18, "diffusion").get_submodule("world_model.dynamics")
    linear = [module for module in dynamics.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        assert module.weight.detach().std() == pytest.approx(module.in_features**-0.5, rel=0.06)
        assert not module.bias.any()


def test_the_codebook_is_a_buffer_of_the_published_size() -> None:
    with torch.device("meta"):
        agent = paper_agent("crafter", 17)
    quantizer = agent.get_submodule("world_model.tokenizer.quantizer")
    assert dict(quantizer.named_buffers())["codebook"].shape == (1024, 64)


def test_weights_start_as_published() -> None:
    agent = paper_agent("crafter", 17)
    for module in agent.world_model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert module.weight.detach().std() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
    critic = agent.get_submodule("actor_critic.critic")
    assert all(not p.any() for p in critic.parameters())
    actor = agent.get_submodule("actor_critic.actor")
    assert all(0.03 < p.abs().max() <= 512**-0.5 + 1e-6 for p in actor.parameters())
    for ours, theirs in zip(
        agent.get_submodule("target").parameters(),
        agent.get_submodule("actor_critic").parameters(),
        strict=True,
    ):
        assert torch.equal(ours, theirs) and ours is not theirs


def test_iris_starts_as_published() -> None:
    agent = paper_agent("atari", 18, "iris")
    for module in agent.get_submodule("world_model.dynamics").modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert module.weight.detach().std() == pytest.approx(0.02, rel=0.05)
    codebook = agent.get_submodule("world_model.tokenizer.quantizer").get_parameter("codebook")
    assert 0.99 / 512 < codebook.abs().max() <= 1 / 512
    batch = windows([(0, 2, 0)])
    with torch.no_grad():
        parts = agent.world_model.loss(batch).parts
        assert parts["obs_ce"] == pytest.approx(math.log(512), abs=0.25)
        assert parts["reward_loss"] == pytest.approx(math.log(3), abs=0.3)
        assert parts["end_loss"] == pytest.approx(math.log(2), abs=0.3)
        agent.horizon = 2
        parts = agent.policy_loss(agent.lesson(batch)).parts
    assert parts["entropy"] == pytest.approx(math.log(18), abs=0.02)
    assert parts["value"].abs() < 1e-3


@pytest.mark.parametrize("name", ["dart", "delta_iris_tokens"])
def test_a_policy_that_sees_no_picture_starts_with_even_guesses(name: str) -> None:
    agent, batch = paper_agent("atari", 18, name), windows([(0, 2, 0)])
    assert not agent.world_model.draws
    agent.horizon = 2
    with torch.no_grad():
        parts = agent.policy_loss(agent.lesson(batch)).parts
    assert parts["entropy"] == pytest.approx(math.log(18), abs=0.15)
    assert parts["value"] == 0


def test_losses_start_near_those_of_even_guesses() -> None:
    agent, batch = paper_agent("crafter", 17), windows([(0, 2, 0)])
    with torch.no_grad():
        parts = agent.world_model.loss(batch).parts
        assert parts["obs_ce"] == pytest.approx(math.log(1024), abs=0.25)
        assert parts["reward_loss"] == pytest.approx(math.log(255), abs=0.25)
        assert parts["end_loss"] == pytest.approx(math.log(2), abs=0.3)
        agent.horizon = 2
        parts = agent.policy_loss(agent.lesson(batch)).parts
    assert parts["value_loss"] == pytest.approx(math.log(255), abs=1e-4)
    assert parts["entropy"] == pytest.approx(math.log(17), abs=0.02)
    assert parts["value"].abs() < 1e-3
