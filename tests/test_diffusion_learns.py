"""A trained denoiser knows the law of its frames as well as a model that goes token by token.

Of each frame's 4 tokens the first is an event of probability 0.3, the second repeats it, the third
is the action's parity, and the fourth the event of two frames before. So a frame is worth the nats
of one event, if tokens know each other, the action and the past, and no less unless one leaks.
"""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from tests.diffusion import KINDS, trained
from tests.nets import NUM_ACTIONS, Net, cut, scored, settings
from worldmodels.batch import Batch
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.processes import Noised
from worldmodels.dynamics.diffusion import Diffusion

RATE, TOKENS, STEPS = 0.3, 4, 4
UPDATES, EARLY = 300, 30


def world(rows: int, seed: int) -> tuple[Batch, Tensor]:
    """Windows without pictures, and their tokens (B,T+1,4)."""
    rng = torch.Generator().manual_seed(seed)
    act = torch.randint(0, NUM_ACTIONS, (rows, STEPS), generator=rng)
    event = (torch.rand(rows, STEPS + 3, generator=rng) < RATE).long()
    now, parity = event[:, 2:], F.pad(act % 2, (1, 0))
    tokens = torch.stack((now, now, parity, event[:, :-2]), -1)
    none = torch.zeros(rows, STEPS)
    obs = torch.zeros(1, dtype=torch.uint8).expand(rows, STEPS + 1, 64, 64, 3)
    return Batch(obs, act, none, none.bool(), none.bool(), ~none.bool()), tokens


def born(*words: str) -> Net:
    """A small net over the token layout with the weights that training starts from."""
    torch.manual_seed(0)
    at = [f"agent.dynamics.{word}" for word in ("layout.kind=token", "init=fan_in", *words)]
    agent = build_agent(settings(*at), EnvSpec(Image((64, 64, 3)), Discrete(NUM_ACTIONS)))
    dynamics = agent.world_model.dynamics
    assert isinstance(dynamics, Net)
    return dynamics


def learned(net: Net) -> tuple[float, float]:
    """Trains a small net: the nats of a frame above the entropy, early and in the end."""
    above = []
    optimizer = torch.optim.Adam(net.parameters(), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, UPDATES, pct_start=0.1)
    for update in range(1, UPDATES + 1):
        optimizer.zero_grad()
        net.train().loss(*world(32, seed=update)).total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update in (EARLY, UPDATES):
            above.append(excess(net.eval()))
    return above[0], above[1]


@torch.no_grad()
def excess(net: Net) -> float:
    """Nats of a frame above the entropy of one event, in frames whose past tells the rest."""
    batch, tokens = world(300, seed=10**6)
    by_net = bound(net, batch, tokens) if isinstance(net, Diffusion) else chain(net, batch, tokens)
    seen = float(tokens[:, 2:, 0].float().mean())
    return by_net + seen * math.log(RATE) + (1 - seen) * math.log(1 - RATE)


def chain(net: Net, batch: Batch, tokens: Tensor) -> float:
    """Nats of a frame by a net that goes token by token."""
    return float(costs(scored(net, batch, tokens)["token_head"], tokens).sum(-1).mean())


def bound(net: Diffusion, batch: Batch, tokens: Tensor) -> float:
    """Nats of a frame: the mean over all sets of hidden tokens, each count of them as likely."""
    total = 0.0
    for count in range(1, TOKENS + 1):
        sets = list(combinations(range(TOKENS), count))
        for places in sets:
            hidden = torch.zeros(tokens[:, 1:].shape, dtype=torch.bool)
            hidden[..., list(places)] = True
            z = tokens[:, 1:].masked_fill(hidden, net.vocab)
            said = trained(net, batch, tokens, Noised(z, hidden, hidden.sum(-1)))[1]
            nats = costs(said["token_head"], tokens)[..., list(places)].sum(-1)
            total += float(nats.mean()) * TOKENS / count / len(sets)
    return total / TOKENS


def costs(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p (B,T-1,K) of the tokens of frames 2 and on, by logits (B,T,K,V) of frames 1 and on."""
    return -logits.log_softmax(-1).gather(-1, tokens[:, 1:, :, None])[:, 1:, :, 0]


@torch.no_grad()
def dreamt(net: Diffusion, steps: int) -> tuple[Tensor, Tensor]:
    """What 1,500 rows do next, and their frames (B,5,4): two real ones, three imagined."""
    batch, tokens = world(1500, seed=10**7)
    net.sampler = SAMPLERS["random"](tokens=TOKENS, vocab=net.vocab, steps=steps)
    # As long in all as what was trained on: how far back to look is not learned beyond that.
    memory = net.start(cut(batch, slice(None), slice(0, 1)), tokens[:, :2])
    frames = [tokens[:, 0], tokens[:, 1]]
    for act in batch.act[:, 1:].T:
        memory, prediction = net.step(memory, act, None)
        memory = net.see(memory, None, prediction.tokens)
        frames.append(prediction.tokens)
    return batch.act[:, 1:], torch.stack(frames, 1)


@pytest.fixture(scope="module")
def reference() -> float:
    """Nats above the entropy of the model that goes token by token."""
    return learned(born("kind=autoregressive"))[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_learns_what_a_model_of_one_order_does(kind: str, reference: float) -> None:
    assert abs(reference) < 0.02
    net = born("kind=diffusion", f"backbone.kind={kind}", "objectives.corrupted=0")
    assert isinstance(net, Diffusion)
    early, late = learned(net)
    # Less than the entropy is a leak. A token without its cause would cost 0.6 nats or more.
    assert -0.02 < late < reference + 0.02 and early > 5 * abs(late) + 0.1, (early, late)
    for steps in (1, TOKENS):
        act, frames = dreamt(net, steps)
        event, again, parity, old = frames[:, 2:].unbind(-1)
        for drawn in (event, again):
            assert abs(float((drawn == 1).float().mean()) - RATE) < 0.04
        assert float((parity != act % 2).float().mean()) < 0.02
        # A net may remember either token of an event, so what counts are frames where they agree.
        first, second = frames[:, :3, 0], frames[:, :3, 1]
        assert float((old != first)[first == second].float().mean()) < 0.02
        torn = float((event != again).float().mean())
        # Drawn at once, two tokens of one event are two events; in turn, they are one.
        assert abs(torn - 2 * RATE * (1 - RATE)) < 0.05 if steps == 1 else torn < 0.02, torn
