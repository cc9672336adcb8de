"""Settings of a policy and its learning: those that cannot be, and runs older than some."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from runners.errors import UserError
from runners.settings.checks import longest_dream
from runners.settings.load import load, read_for_resume, to_yaml
from tests.nets import small_agent

LATENT = ("agent.view=latent", "agent.actor_critic.kind=mlp", "agent.dynamics.layout.kind=blind")


def refused(*words: str) -> str:
    """The message that a command line gets."""
    with pytest.raises(UserError) as caught:
        load(words)
    return str(caught.value)


def test_a_range_of_returns_needs_two_ends() -> None:
    at = "agent.behaviour.return_scale."
    message = refused(f"{at}kind=percentiles", f"{at}low=60", f"{at}high=40")
    assert f"{at}low=60 must be below {at}high=40" in message
    assert f"it belongs to {at}kind=percentiles" in refused(f"{at}low=10")


def test_a_policy_that_reads_what_changed_is_refused() -> None:
    message = refused("agent.view=tokens", "agent.actor_critic.kind=token_transformer")
    assert message.startswith("agent.view=tokens with agent.tokenizer.kind=delta_vq: delta tokens")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("view", "kind", "text"),
    [
        ("tokens", "cnn_lstm", "it reads frames, which agent.view=frame or reconstruction shows"),
        ("tokens", "pool_lstm", "it reads frames"),
        ("frame", "token_transformer", "it reads tokens, which agent.view=tokens shows"),
        ("reconstruction", "token_transformer", "it reads tokens"),
        ("latent", "cnn_lstm", "it reads frames, which agent.view=frame or reconstruction shows"),
        ("latent", "token_transformer", "it reads tokens, which agent.view=tokens shows"),
        ("frame", "mlp", "it reads features or tokens, which agent.view=tokens or latent shows"),
        ("tokens", "token_transformer", None),
        ("frame", "pool_lstm", None),
        ("latent", "mlp", None),
        ("tokens", "mlp", None),
    ],
)
def test_a_policy_that_cannot_see_its_view_is_refused(
    view: str, kind: str, text: str | None
) -> None:
    words = (
        "agent.tokenizer.kind=frame_vq",
        f"agent.view={view}",
        f"agent.actor_critic.kind={kind}",
    )
    if text is None:
        load(words)
        return
    message = refused(*words)
    assert message.startswith(f"agent.view={view} with agent.actor_critic.kind={kind}: {text}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (
            "agent.behaviour.model_context=2",
            "agent.behaviour.model_context=2 with agent.view=latent: the policy sees",
        ),
        (
            "agent.behaviour.context=0",
            "agent.behaviour.context=0 with agent.view=latent: features of one frame",
        ),
        (
            "agent.behaviour.horizon=16",
            "agent.dynamics.blocks=21 is too few for imagination: agent.behaviour.context=5 + "
            "agent.behaviour.horizon=16 + 1 = 22",
        ),
    ],
)
def test_a_policy_on_features_that_nothing_could_give_it_is_refused(word: str, text: str) -> None:
    message = refused(*LATENT, word)
    assert message.startswith(text) and "\n" not in message


def test_only_a_dream_without_any_frame_must_end() -> None:
    blind = "agent.dynamics.layout.kind=blind"
    assert longest_dream(load(LATENT).config.agent) == 20
    assert longest_dream(load(["agent=delta_iris", blind]).config.agent) is None
    for name in ("delta_iris", "iris", "dart"):
        assert longest_dream(load([f"agent={name}"]).config.agent) is None


def test_heads_that_do_not_divide_a_policy_are_refused() -> None:
    words = ["agent.tokenizer.kind=frame_vq", "agent.view=tokens"]
    words += ["agent.actor_critic.kind=token_transformer", "agent.actor_critic.heads=3"]
    text = "agent.actor_critic.width=256 is not divisible by agent.actor_critic.heads=3"
    assert refused(*words).startswith(text)


def test_a_run_older_than_a_setting_goes_on_as_it_began(tmp_path: Path) -> None:
    config, file = load(["size=tiny"]).config, tmp_path / "config.yaml"
    tree = yaml.safe_load(to_yaml(config))
    for name in ("critic_targets", "gradient", "return_scale"):
        del tree["agent"]["behaviour"][name]
    file.write_text(yaml.safe_dump(tree))
    assert read_for_resume(file, []).config == config
    # Its checkpoints hold nothing but networks.
    tops = {name.split(".")[0] for name in small_agent().state_dict()}
    assert tops == {"world_model", "actor_critic", "target"}
