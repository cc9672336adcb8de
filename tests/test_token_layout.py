"""The dynamics over frame tokens, which sees no picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.layouts import truth
from tests.nets import (
    assert_same,
    cut,
    dynamics_of,
    gradients,
    scored,
    scribble,
    shown,
    small_agent,
    windows,
)
from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.dynamics.sequence import embed

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]


def dynamics(*words: str) -> Autoregressive:
    return dynamics_of(small_agent("agent.dynamics.layout.kind=token", *words))


def test_a_window_is_the_tokens_of_frames_with_actions_between() -> None:
    net, batch = dynamics(), windows([(0, 3, 0)] * 2)
    tokens, layout = truth(batch), net.layout
    x, visible = embed(net.layout, batch, tokens)
    action, token = layout.action.weight, layout.token.weight  # type: ignore[attr-defined]
    rows = [token[tokens[:, 0]]]
    for t in range(3):
        rows += [action[batch.act[:, t, None]], token[tokens[:, t + 1]]]
    assert torch.equal(x, torch.cat(rows, 1)) and x.shape == (2, 19, 32) and visible.all()


def test_it_scores_each_token_from_what_stands_before_it() -> None:
    net, batch = dynamics(), windows([(0, 6, 0)])
    tokens = truth(batch)
    base = scored(net, batch, tokens)
    for t in range(7):
        for k in range(4):
            changed = tokens.clone()
            changed[:, t, k] = (changed[:, t, k] + 1) % 16
            moved = scored(net, batch, changed)
            # Token k of frame t is read by the tokens after it in the frame, and by what follows.
            first = (t - 1) * 4 + k + 1
            before, after = (s["token_head"].flatten(1, 2)[0] for s in (base, moved))
            same = (before == after).all(-1)
            assert same[: max(first, 0)].all() and not same[max(first, 0) :].any(), (t, k)
            for name in ("reward_head", "end_head"):
                same = (base[name] == moved[name]).all(-1)[0]
                assert same[:t].all() and not same[t:].any(), (t, k)


def test_pictures_play_no_part() -> None:
    net, batch = dynamics(), windows(PADDED)
    tokens = truth(batch)
    other = replace(batch, obs=windows(PADDED, seed=8).obs)
    assert_same(net.loss(other, tokens).parts, net.loss(batch, tokens).parts, atol=0)
    drawn = []
    for variant in (batch, other):
        torch.manual_seed(0)
        memory = net.start(variant, tokens)
        for _ in range(30):
            memory, prediction = net.step(memory, batch.act[:, 0], None)
            memory = net.see(memory, variant.obs[:, 0], prediction.tokens)
            drawn.append(prediction.tokens)
    assert torch.equal(torch.stack(drawn[:30]), torch.stack(drawn[30:]))


def test_padding_changes_no_loss_and_no_gradient() -> None:
    net, batch = dynamics(), windows(PADDED)
    tokens = truth(batch)
    other = torch.where(batch.seen[..., None], tokens, 15 - tokens)
    results = []
    for variant, labels in ((batch, tokens), (scribble(batch), other)):
        loss = net.loss(variant, labels)
        results.append((loss.parts, gradients(net, loss.total)))
    for one, changed in zip(*results, strict=True):
        assert_same(one, changed)


def test_every_parameter_learns() -> None:
    net, batch = dynamics(), windows([(0, 6, 0)] * 8)
    grads = gradients(net, net.loss(batch, truth(batch)).total)
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(g.abs().max() > 0 for g in grads.values())


def test_an_update_is_cut_by_the_largest_activation_of_the_sequence() -> None:
    net = dynamics("agent.dynamics.blocks=30")
    assert net.frame_values == 5 * 2 * 150, "2 heads, 150 positions"
    short = dynamics("agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    assert short.frame_values == 5 * 4 * 32, "4 times the width"
    # 8x8 patches in 8 channels of the frame's encoder; on a short sequence they are the largest.
    delta = dynamics_of(small_agent("agent.dynamics.layout.base=64"))
    assert delta.frame_values == 64 * 8 * 8


@pytest.mark.parametrize("context", [0, 3])
def test_the_world_model_imagines_what_its_loss_scores(context: int) -> None:
    agent = small_agent("agent.dynamics.layout.kind=token")
    model, batch = agent.world_model, windows([(0, 6, 0)] * 3)
    tokens = model.tokenize(batch)
    trained = scored(dynamics_of(agent), batch, tokens)["token_head"]
    state = model.start(cut(batch, slice(None), slice(0, context)))
    for t in range(context, 6):
        state, prediction = model.imagine(state, batch.act[:, t], tokens[:, t + 1])
        torch.testing.assert_close(prediction.logits, trained[:, t], atol=1e-5, rtol=1e-4)
        assert shown(state).shape == (3, 64, 64, 3) and shown(state).dtype == torch.uint8
