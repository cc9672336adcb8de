"""What every part of a kind must do; an entry of a table is held to its check."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.agent import forget
from agents.protocols import ActorCritic, View
from envs.experience import EnvSpec
from envs.spaces import Obs
from envs.trees import each, leaves
from tests.nets import SPEC, cut, gradients, scribble
from worldmodels.batch import Batch, at
from worldmodels.protocols import Dynamics, Layout, Loss, Prev, Quantizer, State, Tokenizer
from worldmodels.world_model import WorldModel


def check_quantizer(quantizer: Quantizer) -> None:
    """Codes in range, gradients to the input, no change of state by the forward pass."""
    assert isinstance(quantizer, nn.Module)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    z = torch.randn(3, 4, quantizer.dim, requires_grad=True)
    out = quantizer(z)
    assert out.codes.shape == out.loss.shape == (3, 4) and out.z.shape == z.shape
    assert out.codes.dtype == torch.int64 and in_range(out.codes, quantizer.size)
    torch.testing.assert_close(out.z.detach(), quantizer.embed(out.codes), atol=1e-5, rtol=1e-4)
    out.z.sum().backward()
    assert z.grad is not None and z.grad.any()
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
    torch.testing.assert_close(sum(out.parts.values(), torch.zeros(3, 4)), out.loss)
    metrics = quantizer.update(z.detach(), out.codes, torch.ones(3, 4))
    assert all(v.isfinite() and not v.ndim for v in metrics.values())
    assert {"perplexity", "slot_perplexity", "codes_in_use", "dead_codes"} <= metrics.keys()


def check_tokenizer(tokenizer: Tokenizer, batch: Batch, spec: EnvSpec = SPEC) -> None:
    """Tokens stand at the frame they describe; frames are of their space; padding costs nothing.

    Nothing but `learn` moves what it keeps, and training mode changes no token.
    """
    assert isinstance(tokenizer, nn.Module)
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}
    tokenizer.eval()
    expected = tokenizer.tokenize(batch)
    tokenizer.train()
    tokens = tokenizer.tokenize(batch)
    assert tokens.shape == (*batch.seen.shape, tokenizer.tokens)
    assert in_range(tokens, tokenizer.vocab) and tokens.dtype == torch.int64
    assert torch.equal(tokens, expected)
    prev, later = Prev(at(batch.obs, slice(None, -1)), batch.act), at(batch.obs, slice(1, None))
    assert torch.equal(tokenizer.encode(prev, later), tokens[:, 1:])
    assert alike(tokenizer.decode(prev, tokens[:, 1:]), later)
    embedded = tokenizer.embed(tokens)
    assert embedded.shape == (*tokens.shape, tokenizer.dim) and embedded.dtype == torch.float32
    loss = tokenizer.loss(batch)
    torch.testing.assert_close(tokenizer.loss(scribble(batch, spec=spec)).total, loss.total)
    learned = any(True for _ in tokenizer.parameters())
    assert loss.total.requires_grad == learned
    assert not learned or gradients(tokenizer, loss.total)
    known = tokenizer.known()
    assert known is None or (
        known.shape == (tokenizer.tokens, tokenizer.vocab)
        and known.expand(*tokens.shape, -1).gather(-1, tokens[..., None]).all()
    )
    assert all(torch.equal(v, before[k]) for k, v in tokenizer.state_dict().items())
    assert all(v.isfinite() for v in tokenizer.learn(loss.learn).values())


def check_layout(layout: Layout, width: int, batch: Batch, tokens: Tensor) -> None:
    """The pieces of a step have the sizes that the layout states."""
    rows, steps = batch.valid.shape
    slots = layout.act_size
    assert layout.stride == slots + layout.answer_size + layout.look_size
    root = layout.root(at(batch.obs, 0), tokens[:, 0])
    assert root.shape == (rows, layout.root_size, width)
    acted = layout.act(batch.act)
    assert acted.shape == (rows, steps, slots, width)
    torch.testing.assert_close(layout.act(batch.act[:, 0]), acted[:, 0], atol=1e-5, rtol=1e-4)
    assert layout.answer(tokens).shape == (rows, steps + 1, layout.answer_size, width)
    looked = layout.look(batch.obs)
    assert looked.shape == (rows, steps + 1, layout.look_size, width)
    one = layout.look(at(batch.obs, 1))
    torch.testing.assert_close(one, looked[:, 1], atol=1e-5, rtol=1e-4)


def check_dynamics(
    dynamics: Dynamics,
    tokenizer: Tokenizer,
    batch: Batch,
    tokens: Tensor,
    spec: EnvSpec = SPEC,
) -> None:
    """Padding costs nothing; tokens follow those given, or those known; a memory goes on and on."""
    assert isinstance(dynamics, nn.Module)
    loss, scribbled = (drawn(dynamics, b, tokens) for b in (batch, scribble(batch, spec=spec)))
    torch.testing.assert_close(scribbled.total, loss.total)
    assert gradients(dynamics, loss.total)
    known, places = tokenizer.known(), torch.arange(tokenizer.tokens)
    allowed = torch.ones(len(places), tokenizer.vocab).bool() if known is None else known
    with torch.no_grad():
        moments = dynamics.moments(batch, tokens)
        assert moments.shape == (*batch.seen.shape, dynamics.width)
        assert moments.dtype == torch.float32
        memory = dynamics.start(batch, tokens)
        for step in range(30):
            given = tokens[:, -1] if step == 0 else None
            memory, prediction = dynamics.step(memory, batch.act[:, -1], given, known)
            memory = dynamics.see(memory, at(batch.obs, -1), prediction.tokens)
            if given is not None:
                assert torch.equal(prediction.tokens, given)
            assert allowed[places, prediction.tokens].all() and prediction.end.dtype == torch.bool
            moment = dynamics.moment(memory)
            assert moment.shape == moments[:, -1].shape and moment.isfinite().all()
            logits = prediction.logits
            assert torch.equal(logits.isfinite(), allowed.expand_as(logits))
            assert logits.dtype == torch.float32
            numbers = (prediction.rew, prediction.end_prob)
            assert all(x.isfinite().all() and x.dtype == torch.float32 for x in numbers)
        few = allowed & ((torch.arange(tokenizer.vocab) + places[:, None]) % 3 == 1)
        few = torch.where(few.any(1, keepdim=True), few, allowed)
        _, prediction = dynamics.step(memory, batch.act[:, -1], None, few)
        assert few[places, prediction.tokens].all()
        assert torch.equal(prediction.logits.isfinite(), few.expand_as(prediction.logits))


def drawn(dynamics: Dynamics, batch: Batch, tokens: Tensor) -> Loss:
    """A loss whose random numbers, if there are any, are always the same."""
    torch.manual_seed(0)
    return dynamics.loss(batch, tokens)


def check_actor_critic(policy: ActorCritic, x: Obs, outputs: int) -> None:
    """A stretch equals its moments one by one; unseen moments leave the memory alone."""
    rows, steps = leaves(x)[0].shape[:2]
    whole, last = policy(x, policy.initial(rows))
    assert whole.actor.shape == (rows, steps, outputs)
    assert whole.critic.shape == (rows, steps, policy.value.size)
    carry = policy.initial(rows)
    for t in range(steps):
        decision, carry = policy(at(x, slice(t, t + 1)), carry)
        torch.testing.assert_close(decision.actor[:, 0], whole.actor[:, t], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(carry, last, atol=1e-5, rtol=1e-4)
    seen = torch.ones(rows, steps, dtype=torch.bool)
    torch.testing.assert_close(policy.watch(x, seen), last, atol=1e-5, rtol=1e-4)
    seen[:, :-2] = False
    late = policy.watch(at(x, slice(-2, None)), seen[:, -2:])
    torch.testing.assert_close(policy.watch(x, seen), late, atol=1e-5, rtol=1e-4)


def check_view(view: View, world_model: WorldModel, batch: Batch, spec: EnvSpec = SPEC) -> None:
    """A moment looks alike in a window and in passing, and imagined moments as real ones do."""
    real, rows = view.real(world_model, batch), len(batch.act)
    shapes = each(lambda space: space.shape, view.space(world_model))
    assert each(lambda x: tuple(x.shape[2:]), real) == shapes
    scribbled = view.real(world_model, scribble(batch, spec=spec))
    for one, other in zip(leaves(real), leaves(scribbled), strict=True):
        assert torch.equal(one[batch.seen], other[batch.seen])
    carry = view.watch(batch)
    passing, after = view.observe(world_model, at(batch.obs, -1), carry)
    assert alike(passing, at(real, -1)) and near(passing, at(real, -1))
    act = torch.zeros_like(batch.act[:, -1])
    for tensors in (view.initial(world_model, rows), carry, after, view.took(after, act)):
        assert len(tensors) == view.carries and all(c.shape[0] == rows for c in tensors)
        assert all(c.ndim == 2 for c in tensors)
        over = forget(tensors, torch.ones(rows, dtype=torch.bool))
        assert all(not c.any() and c.dtype == t.dtype for c, t in zip(over, tensors, strict=True))
    assert not any(c.any() for c in view.initial(world_model, rows))
    if not view.carries:
        alone = cut(batch, slice(None), slice(batch.act.shape[1], None))
        assert near(at(view.real(world_model, alone), 0), at(real, -1))
    state: State = world_model.imagine(world_model.start(batch), batch.act[:, -1])[0]
    assert alike(view.imagined(world_model, state), at(real, -1))


def alike(obs: Obs, other: Obs) -> bool:
    """Whether shapes, types and names are the same."""
    kinds = [each(lambda x: (x.shape, x.dtype), tree) for tree in (obs, other)]
    return bool(kinds[0] == kinds[1])


def near(obs: Obs, other: Obs) -> bool:
    """Whether numbers are the same, and frames but for a colour where a convolution rounds."""
    apart = [
        (a.float() - b.float()).abs().max() <= (1e-4 if a.is_floating_point() else 1)
        for a, b in zip(leaves(obs), leaves(other), strict=True)
    ]
    return all(apart)


def in_range(numbers: Tensor, size: int) -> bool:
    """Whether all numbers are classes below `size`."""
    return bool((numbers >= 0).all() and (numbers < size).all())
