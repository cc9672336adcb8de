"""Preset files: every one loads in every combination, and wrong ones are told."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from runners.errors import UserError
from runners.settings.config import Config
from runners.settings.faults import Faults
from runners.settings.load import load
from runners.settings.presets import GROUPS, find, names


@pytest.mark.parametrize("chosen", list(product(*map(names, GROUPS))))
def test_every_combination_of_presets_loads(chosen: tuple[str, ...]) -> None:
    words = [f"{group}={name}" for group, name in zip(GROUPS, chosen, strict=True)]
    presets = load(words).config.presets
    assert tuple(getattr(presets, group) for group in GROUPS) == chosen


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in GROUPS for name in names(group)]
)
def test_every_preset_says_what_it_is(group: str, name: str) -> None:
    faults = Faults()
    preset = find(group, name, faults)
    assert preset is not None and not faults.found
    assert preset.description and "\n" not in preset.description


def agent(words: list[str]) -> dict[str, object]:
    """Some of the agent's numbers, flat."""
    config = load(words).config
    tree = config.agent.model_dump()
    return {
        "width": tree["dynamics"]["width"],
        "heads": tree["dynamics"]["heads"],
        "blocks": tree["dynamics"]["blocks"],
        "reward": tree["dynamics"]["reward"],
        "weights": (tree["dynamics"]["token_weight"], tree["dynamics"]["end_weight"]),
        "context": tuple(tree["tokenizer"]["context"].values()),
        "value": tree["actor_critic"]["value"],
        "horizon": tree["behaviour"]["horizon"],
        "gamma": tree["behaviour"]["gamma"],
        "priority": tree["phases"]["policy"]["priority"],
        "batches": tuple(phase["batch"] for phase in tree["phases"].values()),
        "updates": tuple(phase["updates"] for phase in tree["phases"].values()),
        "after": tuple(phase["after_epoch"] for phase in tree["phases"].values()),
    }


def test_delta_iris_has_the_published_numbers() -> None:
    assert agent(["env=crafter", "agent=delta_iris", "size=paper"]) == {
        "width": 512,
        "heads": 8,
        "blocks": 21,
        "reward": "two_hot",
        "weights": (1.0, 1.0),
        "context": (64, 8),
        "value": "two_hot",
        "horizon": 15,
        "gamma": 0.997,
        "priority": 5.0,
        "batches": (32, 32, 86),
        "updates": (500, 500, 500),
        "after": (0, 0, 0),
    }
    assert agent(["env=atari", "agent=delta_iris", "size=paper"]) == {
        "width": 256,
        "heads": 4,
        "blocks": 26,
        "reward": "sign",
        "weights": (0.1, 0.1),
        "context": (32, 16),
        "value": "scalar",
        "horizon": 20,
        "gamma": 0.995,
        "priority": 1.0,
        "batches": (16, 64, 64),
        "updates": (200, 120, 200),
        "after": (5, 50, 75),
    }


def test_iris_has_the_published_numbers() -> None:
    agent = load(["env=atari", "agent=iris", "size=paper"]).config.agent
    tree = agent.model_dump()
    assert (tree["tokenizer"]["tokens"], tree["tokenizer"]["quantizer"]["size"]) == (16, 512)
    keys = ("width", "layers", "heads", "blocks", "dropout", "reward")
    assert [tree["dynamics"][key] for key in keys] == [256, 10, 4, 20, 0.1, "sign"]
    # 20 imagined steps, the last of which is the bootstrap of 19.
    behaviour = agent.behaviour
    assert (behaviour.context, behaviour.model_context, behaviour.horizon) == (20, 0, 19)
    assert (behaviour.gamma, behaviour.lam, behaviour.entropy) == (0.995, 0.95, 0.001)
    phases = agent.phases
    frames = phases.tokenizer.batch * phases.tokenizer.frames
    assert (frames, phases.world_model.batch, phases.policy.batch) == (256, 64, 64)
    assert phases.world_model.frames == 20
    parts = (phases.tokenizer, phases.world_model, phases.policy)
    assert [p.after_epoch for p in parts] == [5, 25, 50]
    assert {(p.updates, p.lr, p.clip, p.priority) for p in parts} == {(200, 1e-4, 10.0, 0.0)}
    assert [p.weight_decay for p in parts] == [0.0, 0.01, 0.0]


def test_dart_is_iris_with_another_policy() -> None:
    for env, size in product(("atari", "crafter"), ("paper", "tiny")):
        words = [f"env={env}", f"size={size}"]
        dart, iris = (
            load([*words, f"agent={a}"]).config.agent.model_dump() for a in ("dart", "iris")
        )
        assert {key for key in dart if dart[key] != iris[key]} == {"view", "actor_critic"}
        assert dart["view"] == "tokens"
    dart = load(["env=atari", "size=paper", "agent=dart"]).config.agent.model_dump()
    keys = ("kind", "width", "layers", "heads", "mlp", "value")
    numbers = [dart["actor_critic"].pop(key) for key in keys]
    assert numbers == ["token_transformer", 256, 6, 4, 512, "scalar"]
    assert not dart["actor_critic"]


def test_rem_has_the_published_numbers() -> None:
    agent = load(["env=atari", "agent=rem", "size=paper"]).config.agent
    tree = agent.model_dump()
    tokenizer, quantizer = tree["tokenizer"], tree["tokenizer"]["quantizer"]
    assert (tokenizer["tokens"], tokenizer["l1"], tokenizer["l2"]) == (64, 0.0, 4.0)
    assert [quantizer[key] for key in ("kind", "size", "dim")] == ["vq_grad", 512, 256]
    assert quantizer["codebook_weight"] == quantizer["commitment"] == 1.0
    keys = ("kind", "width", "layers", "heads", "dropout", "reward")
    assert [tree["dynamics"][key] for key in keys] == ["parallel", 256, 5, 4, 0.1, "sign"]
    behaviour, phases = agent.behaviour, agent.phases
    assert (behaviour.context, behaviour.horizon, behaviour.epsilon) == (20, 10, 0.01)
    assert (behaviour.gamma, behaviour.lam, behaviour.entropy) == (0.995, 0.95, 0.001)
    # 10 actions of a window, each with the frame before it and the one after.
    assert phases.world_model.frames == 11
    assert phases.tokenizer.batch * phases.tokenizer.frames == 128
    parts = (phases.tokenizer, phases.world_model, phases.policy)
    assert [p.batch for p in parts] == [64, 64, 128]
    assert [p.after_epoch for p in parts] == [5, 25, 50]
    assert [(p.updates, p.lr) for p in parts] == [(200, 1e-4), (200, 2e-4), (100, 1e-4)]
    assert [(p.weight_decay, p.clip) for p in parts] == [(0.0, 10.0), (0.05, 100.0), (0.0, 3.0)]


def test_rem_on_crafter_keeps_its_networks_and_the_pace_of_iris() -> None:
    crafter, atari, iris = (
        load([f"env={env}", f"agent={agent}", "size=paper"]).config.agent.model_dump()
        for env, agent in (("crafter", "rem"), ("atari", "rem"), ("crafter", "iris"))
    )
    assert {key for key in crafter if crafter[key] != atari[key]} == {"dynamics", "phases"}
    assert crafter["dynamics"] == atari["dynamics"] | {"reward": "two_hot"}
    for name, share in (("tokenizer", 1), ("world_model", 1), ("policy", 2)):
        mine, theirs = crafter["phases"][name], iris["phases"][name]
        assert mine["after_epoch"] == theirs["after_epoch"] == 0
        for key in ("updates", "first_updates"):
            assert mine[key] * share == theirs[key]


@pytest.mark.parametrize("env", ["atari", "crafter"])
def test_tiny_rem_is_tiny_dart_that_imagines_all_tokens_at_once(env: str) -> None:
    rem, dart = (
        load([f"env={env}", "size=tiny", f"agent={a}"]).config.agent.model_dump()
        for a in ("rem", "dart")
    )
    assert rem == dart | {"dynamics": dart["dynamics"] | {"kind": "parallel"}}


@pytest.mark.parametrize("env", ["atari", "crafter"])
@pytest.mark.parametrize("size", ["paper", "tiny"])
def test_diffusion_is_dart_with_another_world_model(env: str, size: str) -> None:
    ours, dart = (
        load([f"env={env}", f"size={size}", f"agent={a}"]).config.agent.model_dump()
        for a in ("diffusion", "dart")
    )
    for key in ("tokenizer", "view", "actor_critic"):
        assert ours[key] == dart[key]
    assert ours["dynamics"]["reward"] == dart["dynamics"]["reward"]
    assert ours["dynamics"]["kind"] == "diffusion"
    # A dream, with the real past before it, is no longer than what the world model trains on.
    behaviour, frames = ours["behaviour"], ours["phases"]["world_model"]["frames"]
    assert behaviour["model_context"] + behaviour["horizon"] + 1 <= frames


def test_the_presets_of_diffusion_have_the_numbers_that_they_tell() -> None:
    ours, copilot = (
        load(["env=atari", "size=paper", f"agent={a}"]).config.agent.model_dump()["dynamics"]
        for a in ("diffusion", "copilot4d")
    )
    keys = ("width", "layers", "heads", "label_smoothing", "guidance")
    assert [ours[key] for key in keys] == [384, 4, 6, 0.0, 0.0]
    assert [copilot[key] for key in keys] == [384, 8, 6, 0.1, 1.0]
    assert ours["backbone"] == {"kind": "trunk_head", "head": 3}
    assert copilot["backbone"] == {"kind": "st"}
    assert [ours[part]["kind"] for part in ("process", "sampler")] == ["absorbing", "random"]
    assert [copilot[part]["kind"] for part in ("process", "sampler")] == ["copilot4d"] * 2
    steps = ("steps", "temperature", "top_k")
    assert [ours["sampler"][key] for key in steps] == [4, 1.0, None]
    assert [copilot["sampler"][key] for key in steps] == [10, 1.0, 3]
    shares = ("clean", "corrupted", "alone")
    assert [ours["objectives"][key] for key in shares] == [0.85, 0.15, 0.0]
    assert [copilot["objectives"][key] for key in shares] == [0.5, 0.4, 0.1]


def test_delta_iris_tokens_is_delta_iris_that_looks_once_and_knows() -> None:
    for env, size in product(("atari", "crafter"), ("paper", "tiny")):
        words = [f"env={env}", f"size={size}"]
        ours, parents = (
            load([*words, f"agent={a}"]).config.agent.model_dump()
            for a in ("delta_iris_tokens", "delta_iris")
        )
        value = parents["actor_critic"]["value"]
        hidden = {"paper": 512, "tiny": 256}[size]
        mlp = {"kind": "mlp", "value": value, "hidden": hidden, "layers": 2}
        assert ours.pop("view") == "latent" and ours.pop("actor_critic") == mlp
        assert ours["dynamics"]["layout"]["kind"] == "blind"
        ours["dynamics"]["layout"]["kind"] = "delta"
        del parents["view"], parents["actor_critic"]
        assert ours == parents


@pytest.mark.parametrize(("run", "epochs"), [("crafter10m", 1000), ("atari100k", 600)])
def test_published_budgets_make_the_published_epochs(run: str, epochs: int) -> None:
    budget = load([f"run={run}"]).config.run
    later = budget.steps - budget.first_steps
    assert later % budget.epoch_steps == 0
    assert 1 + later // budget.epoch_steps + budget.tail_epochs == epochs


def test_the_schema_defaults_are_the_published_crafter_run() -> None:
    assert load([]).config == Config()


def test_defaults_choose_other_presets() -> None:
    chosen = [
        (words, load(words).config.presets.run)
        for words in ([], ["env=atari"], ["size=tiny"], ["env=atari", "size=tiny"])
    ]
    assert [run for _, run in chosen] == ["crafter10m", "atari100k", "tiny", "tiny"]
    assert load(["size=tiny", "run=debug"]).config.presets.run == "debug"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user with presets of their own."""
    for group in GROUPS:
        (tmp_path / "configs" / group).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs"


def test_a_user_can_extend_a_preset(folder: Path) -> None:
    (folder / "env" / "pong.yaml").write_text("extends: atari\nset: {env.game: pong}\n")
    config = load(["env=pong"]).config
    assert config.presets.env == "pong" and config.presets.run == "atari100k"
    assert config.env.model_dump()["game"] == "pong"
    # The agent's numbers for Atari hold for what extends it.
    assert config.agent.behaviour.horizon == 20


def test_a_second_agent_is_one_file(folder: Path) -> None:
    (folder / "agent" / "patient.yaml").write_text(
        "description: looks further\n"
        "extends: delta_iris\n"
        "set: {agent: {behaviour: {gamma: 0.999}}}\n"
        "when:\n"
        "  - {size: tiny, env: [crafter, atari], set: {agent.behaviour.lam: 0.5}}\n"
        "  - {size: paper, set: {agent.behaviour.lam: 0.6}}\n"
    )
    behaviour = load(["agent=patient", "size=tiny"]).config.agent.behaviour
    assert (behaviour.gamma, behaviour.lam) == (0.999, 0.5)
    assert load(["agent=patient"]).config.agent.behaviour.lam == 0.6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("descripton: x\n", "there is no entry 'descripton'"),
        ("defaults: {env: atari}\n", "'defaults' may choose size, run, not 'env'"),
        ("when: [{env: atri, set: {seed: 1}}]\n", "'when' names no env preset: 'atri'"),
        ("when: [{env: atari}]\n", "needs conditions and a 'set'"),
        ("when: {env: atari}\n", "'when' should be a list"),
        ("set: {agent.behaviour.gama: 1}\n", "did you mean: agent.behaviour.gamma"),
        ("set: {seed: x}\n", "seed='x' (agent=wrong): input should be a valid integer"),
        ("extends: wrong\n", "it extends itself: wrong -> wrong"),
        ("extends: nothing\n", "no preset 'nothing' in configs/agent/"),
        ("- a\n", "expected settings, found list"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_wrong_preset_is_told(folder: Path, text: str, said: str) -> None:
    (folder / "agent" / "wrong.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(["agent=wrong"])
    assert said in str(caught.value)
