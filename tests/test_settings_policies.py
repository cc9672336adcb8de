"""What is said about settings of a policy's learning that cannot be."""

from __future__ import annotations

import pytest

from runners.errors import UserError
from runners.settings.load import load


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
