"""The schema, the layers of settings, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.errors import UserError
from runners.settings.base import Settings, group_of, variants_of
from runners.settings.build import build, fields
from runners.settings.config import Config
from runners.settings.faults import Faults
from runners.settings.load import (
    CHANGEABLE,
    load,
    load_options,
    read,
    read_for_resume,
    to_yaml,
)
from runners.settings.options import EvaluateOptions, ImagineOptions
from runners.settings.presets import names
from runners.settings.quantizers import QUANTIZERS
from runners.settings.show import resolved_text
from runners.settings.tokenizers import DeltaVqSettings


def classes(cls: type[Settings]) -> set[type[Settings]]:
    """A settings class and all in it, every kind included."""
    found = {cls}
    for field in cls.model_fields.values():
        variants = variants_of(field)
        inner = list(variants.table.values()) if variants else [group_of(field)]
        for child in inner:
            if child is not None:
                found |= classes(child)
    return found


def refused(*words: str) -> str:
    """The message that a command line gets."""
    with pytest.raises(UserError) as caught:
        load(words)
    return str(caught.value)


@pytest.mark.parametrize("cls", [Config, EvaluateOptions, ImagineOptions])
def test_every_setting_has_one_line_about_it_and_a_default(cls: type[Settings]) -> None:
    for group in classes(cls):
        for name, field in group.model_fields.items():
            about = field.description
            assert about and "\n" not in about and len(about) < 80, (group, name)
            if group.__subclasses__() == []:
                assert not field.is_required(), (group, name)


def test_a_kind_in_a_table_bears_its_name() -> None:
    for group in classes(Config):
        for field in group.model_fields.values():
            variants = variants_of(field)
            for word, kind in variants.table.items() if variants else ():
                assert getattr(kind.model_validate({}), variants.key) == word  # type: ignore[union-attr]


def test_later_layers_win_and_origins_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 4\nrun.keep: 7\nagent: {behaviour: {gamma: 0.9}}\n")
    plain, resolved = load([]), load([f"config={file}", "seed=5", "size=tiny"])
    assert plain.config.seed == 0 and plain.origin(("seed",)) == "default"
    assert resolved.config.seed == 5 and resolved.origin(("seed",)) == "command line"
    assert resolved.config.run.keep == 7 and resolved.origin(("run", "keep")) == str(file)
    gamma = ("agent", "behaviour", "gamma")
    assert resolved.config.agent.behaviour.gamma == 0.9 and resolved.origin(gamma) == str(file)
    assert resolved.origin(("run", "steps")) == "run=tiny"


def test_a_file_can_choose_presets_and_the_command_line_can_choose_others(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("env: atari\nsize: tiny\nenv.game: pong\n")
    assert load([f"config={file}"]).config.presets.env == "atari"
    chosen = load([f"config={file}", "size=paper"]).config.presets
    assert (chosen.size, chosen.run) == ("paper", "atari100k")


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("run.steps=1e6", "run.steps", 1_000_000),
        ("run.steps=2.5e5", "run.steps", 250_000),
        ("run.checkpoint_minutes=1e-1", "run.checkpoint_minutes", 0.1),
        ("name=null", "name", None),
        ("name=123", "name", "123"),
        ("name=off", "name", "off"),
        ("agent.tokenizer.mult=[1,1,2,2,2]", "agent.tokenizer.mult", (1, 1, 2, 2, 2)),
        ("agent.behaviour.temperature=2", "agent.behaviour.temperature", 2.0),
    ],
)
def test_values_are_read_by_the_type_of_their_setting(word: str, path: str, value: object) -> None:
    found: object = load([word]).config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("word", "value"), [("off", False), ("yes", True), ("false", False)])
def test_booleans_are_words(word: str, value: bool) -> None:
    assert (
        load(["env=atari", f"env.life_loss={word}"]).config.env.model_dump()["life_loss"] is value
    )


def test_all_faults_come_in_one_message() -> None:
    message = refused("agent.tokenizer.quantizer.size=abc", "env.num_envs=0", "device=gpu")
    assert message == (
        "3 wrong setting(s)\n"
        "  env.num_envs=0 (command line): input should be greater than or equal to 1"
        " — parallel environments for training\n"
        "  agent.tokenizer.quantizer.size='abc' (command line): input should be a valid integer"
        " — codes in the codebook\n"
        "  device='gpu' (command line): input should be 'auto', 'cpu' or 'cuda'"
        " — where the networks live"
    )


def test_an_unknown_preset_names_the_others_and_the_nearest() -> None:
    assert refused("agent=delta_irs") == (
        f"no preset 'delta_irs' in configs/agent/ (there are: {', '.join(names('agent'))})\n"
        "  did you mean: delta_iris"
    )


@pytest.mark.parametrize(
    ("word", "help_"),
    [
        ("agent.tokenizer.quantizer.sise=2048", "did you mean: agent.tokenizer.quantizer.size"),
        ("agent.tokenizer.vocab=2048", "agent.tokenizer holds: action_channels"),
        ("num_envs=4", "did you mean: env.num_envs"),
        ("agnt.behaviour.gamma=1", "did you mean: agent.behaviour.gamma"),
        ("env.game=pong", "it belongs to env.suite=atari"),
        ("seed.x=1", "there is no setting 'seed.x'"),
        ("--seed=3", "did you mean: seed=3"),
        ("crafter", "did you mean: env=crafter"),
        ("agent.tokenizer=delta", "agent.tokenizer holds: "),
        ("presets.env=atari", "such as env=atari"),
    ],
)
def test_an_unknown_key_names_the_nearest(word: str, help_: str) -> None:
    assert help_ in refused(word)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["agent.dynamics.kind=serial"],
            "input should be 'autoregressive' or 'diffusion' or 'factorised' or 'parallel'",
        ),
        (["env=atari", "env.game=brekout"], "did you mean: breakout"),
        (["seed=1.5"], "seed=1.5 (command line): input should be a valid integer"),
        (["seed=-1"], "greater than or equal to 0"),
        (["agent.behaviour.gamma=nan"], "input should be a finite number"),
        (["agent.tokenizer.mult=2"], "input should be a list such as [1,2]"),
        (["agent.tokenizer.mult=[1,x]"], "item 2: input should be a valid integer"),
        (["env=atari", "env.life_loss=maybe"], "input should be true or false"),
        (["config=nowhere.yaml"], "cannot read nowhere.yaml: No such file or directory"),
        (["name=a/b"], "input should be letters, digits"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(words: list[str], text: str) -> None:
    assert text in refused(*words)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("agent.tokenizer.tokens=5", "must be one of 1, 4, 16, 64"),
        ("agent.dynamics.heads=7", "agent.dynamics.width=512 is not divisible by"),
        ("agent.dynamics.width=256", "8 x 8 x 8 = 512"),
        ("agent.behaviour.horizon=30", "agent.behaviour.horizon=30 + 1 = 36"),
        ("agent.behaviour.model_context=6 agent.behaviour.context=8", "model_context=6 + "),
        ("agent.phases.world_model.frames=22", "agent.dynamics.blocks=21"),
        ("agent.actor_critic.patch=3", "agent.actor_critic.patch=3"),
        ("agent.actor_critic.kind=pool_lstm agent.actor_critic.patch=8", "do not divide 64x64"),
        ("agent.actor_critic.down=[1,1]", "agent.actor_critic.down has 2"),
        ("agent.tokenizer.decoder.base=48", "groups=32 do not divide"),
        ("run.first_steps=20000000", "more than all steps"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(word: str, text: str) -> None:
    assert text in refused(*word.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("kind=fsq levels=[8,2]", "form=published: that form needs 3 levels"),
        ("kind=fsq levels=[256,256,2] form=symmetric", "make 131072 codes, more than 65536"),
        ("kind=lfq bits=13", "bits=13 is too many for agent.tokenizer.quantizer.entropy=exact"),
        ("dim=1 gradient=rotation", "one number cannot be turned"),
    ],
)
def test_codes_that_cannot_be_are_refused(words: str, text: str) -> None:
    at = "agent.tokenizer.quantizer."
    assert text in refused(*[at + word for word in words.split()])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("attend=[1,0]", "agent.tokenizer.mult has 5 stages and agent.tokenizer.attend has 2"),
        ("tokens=64", "must be one of 1, 4, 16"),
        ("encoder.base=48", "groups=32 do not divide"),
        ("context.base=8", "it belongs to agent.tokenizer.kind=delta_vq"),
    ],
)
def test_a_frame_tokenizer_that_cannot_be_is_refused(words: str, text: str) -> None:
    at = "agent.tokenizer."
    assert text in refused(f"{at}kind=frame_vq", *[at + word for word in words.split()])


def test_tokens_that_show_no_whole_frame_are_refused() -> None:
    text = "agent.dynamics.layout.kind=token with agent.tokenizer.kind=delta_vq: delta tokens do"
    assert refused("agent.dynamics.layout.kind=token").startswith(text)
    load(["agent.dynamics.layout.kind=token", "agent.tokenizer.kind=frame_vq"])


def test_a_reconstruction_that_needs_the_frame_before_is_refused() -> None:
    message = refused("agent.view=reconstruction")
    assert message.startswith("agent.view=reconstruction with agent.tokenizer.kind=delta_vq: it")
    assert "\n" not in message
    load(["agent.view=reconstruction", "agent.tokenizer.kind=frame_vq"])


def test_codes_at_the_edge_are_fine() -> None:
    at = "agent.tokenizer.quantizer."
    for words in (
        "kind=fsq levels=[2,9] form=symmetric",
        "kind=fsq levels=[256,256]",
        "kind=lfq bits=12",
        "kind=bsq bits=16",
        "dim=1",
        "dim=2 gradient=rotation",
    ):
        load([at + word for word in words.split()])


def test_a_wrong_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\nseed: 2\n")
    assert f"{file}:2 is not YAML: 'seed' is given twice" in refused(f"config={file}")
    file.write_text("seed: [1\n")
    assert f"{file}:2 is not YAML" in refused(f"config={file}")
    file.write_text("seed: many\nno.such: 1\n")
    message = refused(f"config={file}")
    assert f"seed='many' ({file})" in message and f"'no.such' ({file})" in message


def test_another_kind_drops_what_was_set_for_the_kind_before() -> None:
    config = load(["env.suite=atari", "env.game=pong"]).config
    assert config.env.model_dump()["game"] == "pong" and config.env.num_envs == 1


@pytest.mark.parametrize("size", ["tiny", "paper"])
@pytest.mark.parametrize("env", ["crafter", "atari"])
def test_another_transformer_keeps_what_was_set_for_the_transformer_before(
    env: str, size: str
) -> None:
    words = [f"env={env}", f"size={size}"]
    before = load(words)
    line = [*words, "agent.dynamics.kind=parallel", "agent.dynamics.layers=5"]
    for order in (line, line[::-1]):
        after = load(order)
        expected = before.config.agent.dynamics.model_dump() | {"kind": "parallel", "layers": 5}
        assert after.config.agent.dynamics.model_dump() == expected
        for key in (("width",), ("layout", "base")):
            key = ("agent", "dynamics", *key)
            assert after.origin(key) == before.origin(key) == "agent=delta_iris"
    assert after.config.agent.tokenizer == before.config.agent.tokenizer


@pytest.mark.parametrize("size", ["tiny", "paper"])
@pytest.mark.parametrize("env", ["crafter", "atari"])
def test_a_quantizer_is_chosen_by_one_word(size: str, env: str) -> None:
    for kind, cls in QUANTIZERS.items():
        if kind == "vq_ema":
            continue
        words = [f"env={env}", f"size={size}", f"agent.tokenizer.quantizer.kind={kind}"]
        for order in (words, words[::-1]):
            resolved = load(order)
            tokenizer = resolved.config.agent.tokenizer
            assert isinstance(
                tokenizer, DeltaVqSettings
            ) and tokenizer.quantizer == cls.model_validate({})
            key = ("agent", "tokenizer", "quantizer", "kind")
            assert resolved.origin(key) == "command line"
        plain = load(words[:2]).config.agent.tokenizer.model_dump()
        assert {**tokenizer.model_dump(), "quantizer": plain["quantizer"]} == plain


def test_the_settings_of_another_quantizer_are_shown_and_those_of_the_old_are_gone() -> None:
    words = ["size=tiny", "agent.tokenizer.quantizer.kind=fsq"]
    rows = [row for row in resolved_text(load(words)).splitlines() if ".quantizer." in row]
    found = {row.split()[0].rsplit(".", 1)[1]: (row.split()[1], row) for row in rows}
    assert {name: value for name, (value, _) in found.items()} == {
        "kind": "fsq",
        "levels": "[8,5,5,5]",
        "form": "published",
    }
    assert found["kind"][1].endswith("command line") and found["levels"][1].endswith("default")
    again = resolved_text(load([*words, "agent.tokenizer.quantizer.levels=[8,8,8]"]))
    assert "[8,8,8]" in again


def test_fields_of_the_quantizer_that_was_left_are_refused() -> None:
    message = refused("agent.tokenizer.quantizer.kind=fsq", "agent.tokenizer.quantizer.size=128")
    assert "there is no setting 'agent.tokenizer.quantizer.size'" in message
    kinds = " or ".join(kind for kind, cls in QUANTIZERS.items() if "size" in cls.model_fields)
    assert f"it belongs to agent.tokenizer.quantizer.kind={kinds}" in message


def test_settings_survive_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for words in ([], ["env=atari", "size=tiny", "name=off", "seed=7"]):
        config = load(words).config
        file.write_text(to_yaml(config))
        again = read(file)
        assert again.config == config
        assert again.origin(("seed",)) == "run"
        assert load([f"config={file}"]).config == config


def test_a_resumed_run_may_change_only_what_does_not_change_it(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load(["size=tiny"]).config))
    resolved = read_for_resume(file, ["run.steps=3e4", "threads=1"])
    assert resolved.config.run.steps == 30_000 and resolved.config.threads == 1
    assert resolved.config.agent == load(["size=tiny"]).config.agent
    with pytest.raises(UserError) as caught:
        read_for_resume(file, ["seed=1", "agent.behaviour.gamma=0.9", "size=paper", "run.kep=1"])
    message = str(caught.value)
    assert "size=paper: a run keeps its presets" in message and "did you mean: run.keep" in message
    with pytest.raises(UserError) as caught:
        read_for_resume(file, ["seed=1", "agent.behaviour.gamma=0.9"])
    message = str(caught.value)
    assert "seed: 0 in the run, 1 asked for" in message
    gamma = resolved.config.agent.behaviour.gamma
    assert f"agent.behaviour.gamma: {gamma} in the run, 0.9 asked for" in message
    assert "run.steps" in message


def test_what_may_change_on_resume_exists() -> None:
    known = {".".join(key) for key, _, _ in fields(Config())}
    assert set(CHANGEABLE) <= known


def test_options_of_commands_are_checked_alike() -> None:
    assert load_options(EvaluateOptions, ["episodes=1e2", "checkpoint=best"]).episodes == 100
    with pytest.raises(UserError) as caught:
        load_options(ImagineOptions, ["format=webp", "horizn=3"])
    message = str(caught.value)
    assert "'apng', 'gif' or 'mp4'" in message and "did you mean: horizon" in message


def test_building_twice_gives_equal_settings() -> None:
    faults = Faults()
    assert build(Config, {}, faults) == Config() and not faults.found
