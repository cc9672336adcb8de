"""Tokens of a step from one position: parity of cached and whole passes, independence, packing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runners.errors import UserError
from tests.layouts import described, truth
from tests.nets import cut, gradients, heard, no_waiting, scored, scribble, small_agent, windows
from worldmodels.dynamics.factorised import Factorised
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.world_model import WorldModel

LEFT = [(0, 7, 0), (1, 6, 0), (2, 5, 0), (3, 4, 0)]
PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]

everywhere = pytest.mark.parametrize("layout", LAYOUTS)


def world(layout: str, *words: str) -> tuple[WorldModel, Factorised]:
    kinds = ("agent.dynamics.kind=factorised", f"agent.dynamics.layout.kind={layout}")
    model = small_agent(*kinds, *words).world_model
    assert isinstance(model.dynamics, Factorised)
    return model, model.dynamics


@everywhere
@pytest.mark.parametrize("context", [0, 3, 6])
def test_imagination_of_the_truth_retraces_what_loss_trains(layout: str, context: int) -> None:
    _, net = world(layout)
    batch = windows([row for row in LEFT if row[0] <= context])
    tokens = truth(batch)
    trained = scored(net, batch, tokens)
    with heard(net) as said:
        memory = net.start(cut(batch, slice(None), slice(0, context)), tokens[:, : context + 1])
        for t in range(context, batch.act.shape[1]):
            memory, prediction = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            assert prediction.logits.shape == (len(tokens), 4, 16)
            assert torch.equal(prediction.logits.flatten(1), said["token_head"][-1])
            memory = net.see(memory, batch.obs[:, t + 1], tokens[:, t + 1])
    assert trained["token_head"].std() > 0.1
    for name in ("token_head", "reward_head", "end_head"):
        got = torch.stack(said[name], 1)
        torch.testing.assert_close(got, trained[name][:, context:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("layout", "most"), [("packed", 3), ("token", 15), ("packed", 20)])
def test_tokens_are_scored_by_their_offset_from_those_now(layout: str, most: int) -> None:
    _, net = world(layout, f"agent.dynamics.max_offset={most}")
    batch = windows(PADDED)
    tokens = truth(batch)
    feats = net._features(batch, tokens)
    trained = net._scores(feats, tokens[:, :-1])
    alone = net.token_head(feats).unflatten(-1, (4, 16))
    offsets = net.offset_head(feats).unflatten(-1, (4, 2 * most + 1))
    away = torch.arange(16) - tokens[:, :-1, :, None]
    theirs = offsets.gather(-1, (away + most).clamp(0, 2 * most))
    torch.testing.assert_close(trained, alone + theirs.where(away.abs() <= most, 0))
    assert offsets.std() > 0.1
    scores = F.cross_entropy(
        trained[batch.valid].flatten(0, 1), tokens[:, 1:][batch.valid].flatten()
    )
    torch.testing.assert_close(net.loss(batch, tokens).parts["obs_ce"], scores)

    batch = windows(LEFT)
    tokens = truth(batch)
    trained = net._scores(net._features(batch, tokens), tokens[:, :-1])
    memory = net.start(cut(batch, slice(None), slice(0, 5)), tokens[:, :6])
    for t in range(5, 7):
        told = net.outlook(memory, batch.act[:, t])
        memory, prediction = net.step(memory, batch.act[:, t], tokens[:, t + 1])
        torch.testing.assert_close(prediction.logits, trained[:, t], atol=1e-5, rtol=1e-4)
        assert torch.equal(told.logits, prediction.logits)
        memory = net.see(memory, None, tokens[:, t + 1])


def test_offsets_need_tokens_of_whole_frames() -> None:
    with pytest.raises(UserError, match=r"max_offset=3 with .*layout\.kind=delta.*packed or token"):
        world("delta", "agent.dynamics.max_offset=3")


def test_an_update_is_cut_by_the_scores_of_a_frame() -> None:
    _, net = world("packed", "agent.dynamics.max_offset=1000")
    assert net.frame_values == 4 * (16 + 2000)


@everywhere
def test_a_step_depends_on_its_past_and_its_action_and_on_nothing_later(layout: str) -> None:
    _, net = world(layout)
    batch = windows([(0, 7, 0)])
    tokens = truth(batch)
    before = scored(net, batch, tokens)["token_head"][0]
    for t in range(7):
        act = batch.act.clone()
        act[0, t] = (act[0, t] + 1) % 5
        moved = scored(net, cut(batch, slice(None), slice(None)), tokens)["token_head"][0]
        assert torch.equal(moved, before)
        other = type(batch)(batch.obs, act, batch.rew, batch.end, batch.trunc, batch.valid)
        changed = (scored(net, other, tokens)["token_head"][0] - before).abs().amax(-1) > 1e-4
        assert not changed[:t].any() and changed[t:].all()
        told = tokens.clone()
        told[0, t + 1, 2] = (told[0, t + 1, 2] + 1) % 16
        changed = (scored(net, batch, told)["token_head"][0] - before).abs().amax(-1) > 1e-4
        assert not changed[: t + 1].any() and changed[t + 1 :].all()


@pytest.mark.parametrize(
    ("layout", "most"), [*((layout, 0) for layout in LAYOUTS), ("packed", 3), ("token", 3)]
)
def test_padding_teaches_nothing(layout: str, most: int) -> None:
    _, net = world(layout, f"agent.dynamics.max_offset={most}")
    batch = windows(PADDED)
    tokens = truth(batch)
    shown = described(layout, batch)[..., None]
    other = torch.where(shown, tokens, (tokens + 5) % 16)
    ours = gradients(net, net.loss(batch, tokens).total)
    theirs = gradients(net, net.loss(scribble(batch), other).total)
    torch.testing.assert_close(ours, theirs)


def test_tokens_are_drawn_from_their_own_laws_apart() -> None:
    model, net = world("packed")
    batch = windows([(0, 2, 0)])
    tokens = truth(batch)
    rows = torch.zeros(20_000, dtype=torch.long)
    many = batch.rows(rows)
    with torch.no_grad():
        memory = net.start(many.last(1), tokens[rows, 1:])
        torch.manual_seed(0)
        _, drawn = net.step(memory, many.act[:, -1], None)
    law = drawn.logits[0].softmax(-1)
    counts = torch.stack([(drawn.tokens == v).float().mean(0) for v in range(16)], -1)
    assert (counts - law).abs().max() < 0.02
    first, last = (drawn.tokens[:, k] == law[k].argmax() for k in (0, 3))
    together = (first & last).float().mean() - first.float().mean() * last.float().mean()
    assert together.abs() < 0.02
    assert model.tokenizer.known() is None


def test_a_packed_frame_is_all_of_its_tokens_in_one_position() -> None:
    model, net = world("packed")
    layout = net.layout
    assert (layout.root_size, layout.act_size, layout.answer_size, layout.stride) == (1, 1, 1, 2)
    tokens = truth(windows([(0, 2, 0)]))
    packed = layout.answer(tokens)
    assert packed.shape == (1, 3, 1, net.width)
    for k in range(4):
        other = tokens.clone()
        other[..., k] = (other[..., k] + 1) % 16
        assert ((layout.answer(other) - packed).abs().amax(-1) > 1e-4).all()
    swapped: Tensor = layout.answer(tokens.flip(-1))
    assert not torch.allclose(swapped, packed, atol=1e-3), "each token has a place of its own"
    names = {name for name, _ in net.named_parameters()}
    assert not any("quantizer" in name for name in names), "the tokenizer's weights stay its own"
    found = gradients(model, net.loss(windows(PADDED), truth(windows(PADDED))).total)
    assert all(name.startswith("dynamics.") for name in found)


def test_a_full_memory_goes_on_from_the_present_frame_alone() -> None:
    _, net = world("packed", "agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    batch = windows([(0, 7, 0)])
    tokens = truth(batch)
    memory = net.start(batch, tokens)
    for _ in range(20):
        memory, said = net.step(memory, batch.act[:, 0], tokens[:, 1])
        memory = net.see(memory, None, tokens[:, 1])
        assert memory.cache.filled <= net.net.capacity
    assert said.logits.isfinite().all()


@everywhere
def test_nothing_waits_for_the_host(layout: str) -> None:
    few = ("agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    _, net = world(layout, *few)
    batch = windows(PADDED)
    tokens = truth(batch)
    with no_waiting():
        net.loss(batch, tokens).total.backward()
        with torch.no_grad():
            memory = net.start(batch, tokens)
            for _ in range(3):
                memory, prediction = net.step(memory, batch.act[:, 0], None)
                memory = net.see(memory, batch.obs[:, 0], prediction.tokens)
