"""An episode as a sequence: what stands where, and what of it is real."""

from __future__ import annotations

import pytest
import torch

from tests.layouts import SHAPES, truth
from tests.nets import dynamics_of, small_agent, windows
from worldmodels.dynamics.sequence import embed

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (2, 1, 4), (7, 0, 0)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_real_positions_are_actions_of_valid_steps_and_what_shows_real_frames(
    shape: str,
) -> None:
    layout = dynamics_of(small_agent(f"agent.dynamics.layout.kind={shape}")).layout
    batch = windows(PADDED)
    tokens = truth(batch)
    x, visible = embed(layout, batch, tokens)
    assert x.shape == (*visible.shape, 32)
    for b, seen in enumerate(batch.seen.tolist()):
        expected, at = [seen[0]] * layout.root_size, layout.root_size
        first = seen.index(True)
        for t, valid in enumerate(batch.valid[b].tolist()):
            # What changed is known of valid steps; tokens that are the frame, of real frames.
            expected += [valid] + [seen[t + 1] if shape == "token" else valid] * 4
            expected += [seen[t + 1]] * layout.look_size
            assert torch.equal(x[b, at], layout.act(batch.act)[b, t, 0])
            told = layout.answer(tokens)[b, t + 1]
            if shape == "blind" and first == t + 1:
                expected[-1], told = True, told.clone()
                told[-1] = layout.root(batch.obs[:, first], tokens[:, 0])[b, 0]
            torch.testing.assert_close(x[b, at + 1 : at + 5], told)
            at += layout.stride
        assert visible[b].tolist() == expected
