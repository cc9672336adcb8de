"""What the diffusion dynamics trains: two streams, one mask, several objectives."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.diffusion import KINDS, PLAIN, diffusion, trained
from tests.layouts import SHAPES, described, truth
from tests.nets import assert_same, gradients, no_waiting, scribble, windows
from worldmodels.batch import Batch
from worldmodels.diffusion.processes import Noised
from worldmodels.dynamics.blocks import blocks
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.nets.backbones import Blocks, Layer, TrunkHead
from worldmodels.nets.branches import BLOCKWISE, rotate, turns

PADDED = [(0, 4, 3), (3, 4, 0), (0, 7, 0), (5, 2, 0), (2, 1, 4), (7, 0, 0)]

everywhere = pytest.mark.parametrize(("shape", "kind"), [*product(SHAPES, KINDS)])
each_kind = pytest.mark.parametrize("kind", KINDS)


def dense(net: Diffusion, batch: Batch, tokens: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Both streams of `block` through one attention and one boolean mask, slot by slot.

    Features of the noised copies (B,T,P,D) and of the clean blocks (B,T+1,S,D).
    """
    body, layout = net.net, net.layout
    assert isinstance(body, Blocks)
    x = blocks(layout, batch, tokens)
    rows, frames, size = x.shape[:3]
    clean = net.enter(torch.cat((x, torch.zeros_like(x[:, :, :1])), 2) + net.slot.weight)
    words = torch.where(
        (z == net.vocab)[..., None], net.mask.weight[0], layout.answer(z.clamp_max(net.vocab - 1))
    )
    noised = net.enter(torch.cat((x[:, 1:, : -layout.tokens], words), 2) + net.slot.weight[:-1])
    # Each slot as (stream, block, whether its block is padding).
    every = [("clean", t) for t in range(frames) for _ in range(size + 1)]
    every += [("noised", t) for t in range(1, frames) for _ in range(size)]
    allowed = torch.zeros(rows, len(every), len(every), dtype=torch.bool)
    for i, (stream, block) in enumerate(every):
        for j, (other, there) in enumerate(every):
            if stream == "clean":
                sees = other == "clean" and there <= block
            else:
                sees = there < block if other == "clean" else there == block
            own = stream == other and there == block
            allowed[:, i, j] = (batch.seen[:, there] | own) if sees else False
    at = torch.tensor([block for _, block in every])
    y = torch.cat((clean.flatten(1, 2), noised.flatten(1, 2)), 1)
    for layer in body.layers:
        assert isinstance(layer, Layer)
        part = layer.attention
        qkv = part.qkv(part.norm(y)).view(rows, len(every), 3, part.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        turn = turns(at, q.shape[-1])
        q, k = rotate(q, turn), rotate(k, turn)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
        y = y + part.out(found.transpose(1, 2).flatten(2))
        y = y + layer.perceptron.mlp(layer.perceptron.norm(y))
    y = body.norm(y)
    first = frames * (size + 1)
    return (
        y[:, first:].unflatten(1, (frames - 1, size)),
        y[:, :first].unflatten(1, (frames, size + 1)),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_two_streams_are_one_pass_under_the_published_mask(shape: str) -> None:
    net, batch = diffusion(shape, "block", *PLAIN), windows(PADDED)
    tokens = truth(batch)
    noised, said = trained(net, batch, tokens)
    branches, clean = dense(net, batch, tokens, noised.z)
    expected = {
        "token_head": net.token_head(branches[:, :, -4:]),
        "reward_head": net.reward_head(clean[:, 1:, -1]),
        "end_head": net.end_head(clean[:, 1:, -1]),
    }
    for name, want in expected.items():
        got = said[name]
        torch.testing.assert_close(got[batch.valid], want[batch.valid], atol=1e-5, rtol=1e-4)
    features = net.moments(batch, tokens)
    torch.testing.assert_close(
        features[batch.seen], clean[:, :, -1][batch.seen], atol=1e-5, rtol=1e-4
    )


@everywhere
def test_a_frame_is_denoised_without_knowing_it_or_what_follows(shape: str, kind: str) -> None:
    """Gradients with regard to all that a frame must not know are exactly zero."""
    net, batch = diffusion(shape, kind, *PLAIN), windows([(0, 5, 0)] * 2)
    tokens = truth(batch)
    x = blocks(net.layout, batch, tokens).detach().requires_grad_()
    seen, drawn = batch.seen, net.process.corrupt(tokens[:, 1:]).z
    past, feats = net.net.read(net.net.empty(2, 6), net._clean(x), seen)
    own = x.detach()[:, 1:, :-4].requires_grad_()
    logits = net._denoise(
        past,
        own,
        drawn,
        place=torch.arange(1, 6),
        sight=torch.ones(2, 5, 6).tril().bool(),
        before=feats[:, :-1],
    )
    for t in range(5):
        clean, given = torch.autograd.grad(logits[:, t].square().sum(), (x, own), retain_graph=True)
        assert not clean[:, t + 1 :].any(), "block t+1 is the frame itself"
        assert clean[:, : t + 1].abs().flatten(2).sum(-1).all()
        assert given[:, t].any() and not given[:, :t].any() and not given[:, t + 1 :].any()
    ends = feats[:, :, -1]
    for t in range(6):
        (clean,) = torch.autograd.grad(ends[:, t].square().sum(), x, retain_graph=True)
        assert not clean[:, t + 1 :].any() and clean[:, t].any()


@everywhere
def test_what_the_loss_reads_at_a_step_does_not_know_later_ones(shape: str, kind: str) -> None:
    """The same through the loss: other tokens, actions and frames from step 3 on."""
    net, batch = diffusion(shape, kind, *PLAIN), windows([(0, 6, 0)] * 2)
    tokens, other = truth(batch), windows([(0, 6, 0)] * 2, seed=9)
    later = torch.arange(7) >= 4
    changed = replace(
        batch,
        act=torch.where(later[:-1], (batch.act + 1) % 5, batch.act),
        obs=torch.where(later[:, None, None, None], other.obs, batch.obs),
    )
    told = torch.where(later[:, None], 15 - tokens, tokens)
    noised, base = trained(net, batch, tokens)
    # The noised copies stay as they were, but for what they are copies of.
    _, moved = trained(net, changed, told, noised)
    torch.testing.assert_close(moved["token_head"][:, :4], base["token_head"][:, :4])
    for name in ("reward_head", "end_head"):
        torch.testing.assert_close(moved[name][:, :3], base[name][:, :3])
        assert not torch.isclose(moved[name][:, 3:], base[name][:, 3:]).all()
    assert not torch.isclose(moved["token_head"][:, 4:], base["token_head"][:, 4:]).all()


@everywhere
def test_loss_is_the_weighted_sum_over_valid_steps(shape: str, kind: str) -> None:
    words = ("token_weight=0.3", "reward_weight=0.7", "end_weight=2.0")
    net = diffusion(shape, kind, *PLAIN, *(f"agent.dynamics.{word}" for word in words))
    batch, real = windows(PADDED), windows(PADDED).valid
    end = torch.zeros_like(batch.end)
    end[0, 3] = end[2, 6] = True
    batch, tokens = replace(batch, end=end), truth(batch)
    noised, logits = trained(net, batch, tokens)
    torch.manual_seed(0)
    with patch.object(net, "process", Fixed(noised)):
        loss = net.loss(batch, tokens)
    frames, hidden = tokens[:, 1:], noised.scored
    scores = F.cross_entropy(logits["token_head"].flatten(0, 2), frames.flatten(), reduction="none")
    right = (logits["token_head"].argmax(-1) == frames).float()

    def per_frame(x: Tensor) -> Tensor:
        """The mean over the hidden tokens of a frame, then over frames."""
        return ((x.view(hidden.shape) * hidden).sum(-1) / hidden.sum(-1))[real].mean()

    assert noised.weight is not None
    expected = {
        "obs_ce": per_frame(scores),
        "nll": per_frame(scores * noised.weight[..., None].expand_as(hidden).flatten()),
        "reward_loss": net.reward.loss(logits["reward_head"][real], batch.rew[real]).mean(),
        "end_loss": F.cross_entropy(logits["end_head"][real], end[real].long()),
        "obs_accuracy": per_frame(right),
        "reward_accuracy": net.reward.right(logits["reward_head"][real], batch.rew[real])
        .float()
        .mean(),
    }
    assert_same(loss.parts, expected, atol=1e-5)
    total = 0.3 * expected["obs_ce"] + 0.7 * expected["reward_loss"] + 2 * expected["end_loss"]
    torch.testing.assert_close(loss.total, total)


class Fixed:
    """A process whose noise is always the same."""

    def __init__(self, noised: Noised) -> None:
        self.noised = noised

    def corrupt(self, tokens: Tensor) -> Noised:
        return self.noised


@everywhere
def test_padding_changes_no_loss_and_no_gradient(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind), windows(PADDED)
    tokens = truth(batch)
    other = torch.where(described(shape, batch)[..., None], tokens, 15 - tokens)
    results = []
    for variant, labels in ((batch, tokens), (scribble(batch), other)):
        torch.manual_seed(0)
        loss = net.loss(variant, labels)
        results.append((loss.parts, gradients(net, loss.total)))
    for one, changed in zip(*results, strict=True):
        assert_same(one, changed)


@everywhere
def test_every_parameter_learns(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind), windows([(0, 6, 0)] * 8)
    grads = gradients(net, net.loss(batch, truth(batch)).total)
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(g.abs().max() > 0 for g in grads.values())


@each_kind
def test_dropout_is_in_the_loss_alone(kind: str) -> None:
    net = diffusion("token", kind, *PLAIN, "agent.dynamics.dropout=0.3")
    batch = windows([(0, 4, 0)] * 2)
    tokens = truth(batch)
    noised, base = trained(net, batch, tokens)
    for said in (trained(net, batch, tokens, noised)[1][name] for name in base):
        assert said.isfinite().all()
    again = trained(net, batch, tokens, noised)[1]
    assert all(not torch.equal(again[name], base[name]) for name in base)
    net.eval()
    first, second = (trained(net, batch, tokens, noised)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in base)


@each_kind
def test_the_order_of_slots_is_told_by_their_embeddings_alone(kind: str) -> None:
    """Tokens and their slots' embeddings moved alike move the logits so, and nothing else."""
    net, batch = diffusion("token", kind, *PLAIN), windows(PADDED)
    tokens = truth(batch)
    noised, base = trained(net, batch, tokens)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        net.slot.weight[1:5] = net.slot.weight[1:5][order].clone()
    moved = replace(noised, z=noised.z[..., order], scored=noised.scored[..., order])
    _, said = trained(net, batch, tokens[..., order], moved)
    real = batch.valid
    torch.testing.assert_close(
        said["token_head"][real], base["token_head"][:, :, order][real], atol=1e-5, rtol=1e-4
    )
    for name in ("reward_head", "end_head"):
        torch.testing.assert_close(said[name][real], base[name][real], atol=1e-5, rtol=1e-4)


@everywhere
def test_nothing_waits_for_the_host(shape: str, kind: str) -> None:
    net, batch = diffusion(shape, kind), windows(PADDED)
    with no_waiting():
        net.loss(batch, truth(batch)).total.backward()


def test_the_head_sees_what_the_trunk_made_of_the_past() -> None:
    net, batch = diffusion("token", "trunk_head"), windows(PADDED)
    body = net.net
    assert isinstance(body, TrunkHead)
    x = net._clean(blocks(net.layout, batch, truth(batch)))
    past, feats = body.read(body.empty(len(x), x.shape[1]), x, batch.seen)
    turn = body.trunk.turn(torch.arange(x.shape[1]))
    for i, layer in enumerate(body.head, len(body.trunk.layers)):
        assert isinstance(layer, Layer)
        _, k, v = layer.attention.ask(feats, BLOCKWISE, turn)
        assert torch.equal(past.held(i)[0], k) and torch.equal(past.held(i)[1], v)
