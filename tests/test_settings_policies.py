"""Settings of a policy's learning: those that cannot be, and runs older than some of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from runners.errors import UserError
from runners.settings.load import load, read_for_resume, to_yaml
from tests.nets import small_agent


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


def test_a_run_older_than_a_setting_goes_on_as_it_began(tmp_path: Path) -> None:
    config, file = load(["size=tiny"]).config, tmp_path / "config.yaml"
    tree = yaml.safe_load(to_yaml(config))
    for name in ("critic_targets", "return_scale"):
        del tree["agent"]["behaviour"][name]
    file.write_text(yaml.safe_dump(tree))
    assert read_for_resume(file, []).config == config
    # Its checkpoints hold nothing but networks.
    tops = {name.split(".")[0] for name in small_agent().state_dict()}
    assert tops == {"world_model", "actor_critic", "target"}
