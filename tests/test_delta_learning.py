"""What the delta tokenizer learns in some hundred updates of a second or two."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from tests.nets import NUM_ACTIONS, settings
from worldmodels.batch import Batch
from worldmodels.protocols import Prev
from worldmodels.tokenizers.delta_vq import DeltaVQ

SIZES = "encoder.base=16 encoder.latent=8 context.base=16 context.latent=8 decoder.base=16"
LOSS = "l1=0 l2=1 worst=0 quantizer.kind=fsq"


def tokenizer(*words: str) -> DeltaVQ:
    """For frames of 32x32 pixels, of which each of the 4 tokens tells a quarter."""
    torch.manual_seed(0)
    words = tuple(f"agent.tokenizer.{w}" for w in (*SIZES.split(), *LOSS.split(), *words))
    agent = build_agent(settings(*words), EnvSpec(Image((32, 32, 3)), Discrete(NUM_ACTIONS)))
    net = agent.world_model.tokenizer
    assert isinstance(net, DeltaVQ)
    with torch.no_grad():
        # From the usual start the tokens say nothing for the first hundreds of updates.
        for layer in (net.pre, net.post):
            layer.weight.mul_(10)
    return net


def steps(before: Tensor, after: Tensor) -> Batch:
    """Windows of one step between frames (N,h,w) of grey levels, blown up to 32x32."""
    side = 32 // before.shape[1]
    obs = torch.stack((before, after), 1)[..., None].expand(-1, -1, -1, -1, 3)
    obs = obs.repeat_interleave(side, 2).repeat_interleave(side, 3).to(torch.uint8)
    none = torch.zeros(len(before), 1)
    no = none.bool()
    return Batch(obs, act=none.long(), rew=none, end=no, trunc=no, valid=~no)


def learn(net: DeltaVQ, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad()
    loss = net.loss(batch)
    loss.total.backward()
    optimizer.step()
    net.learn(loss.learn)


def test_a_few_steps_are_learned_by_heart() -> None:
    net = tokenizer("quantizer.levels=[5,5]")
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    # Eight things that may come of one frame and one action: only tokens can tell them apart.
    before = torch.full((8, 4, 4), 100)
    after = before.clone()
    for i in range(8):
        after[i, i // 2, 2 * (i % 2) + i // 4] = 220
    batch = steps(before, after)
    for _ in range(300):
        learn(net, optimizer, batch)
    tokens = net.tokenize(batch)[:, 1:]
    assert len(tokens.flatten(0, 1).unique(dim=0)) == 8
    shown = net.decode(Prev(batch.obs[:, :1], batch.act), tokens)
    error = (shown.float() - batch.obs[:, 1:].float()).square().flatten(1).mean(1)
    # In decibels; a frame with a square too much or too little has 19.
    assert (10 * (255**2 / error).log10()).min() > 23


def some_steps(rng: torch.Generator, count: int, share: float) -> tuple[Batch, Tensor]:
    """From grey frames, of which each quarter turns white so often; and which did (N,4)."""
    grey = torch.randint(20, 101, (count, 1, 1), generator=rng).expand(-1, 2, 2)
    white = torch.rand(count, 2, 2, generator=rng) < share
    white[::2] = False
    return steps(grey, torch.where(white, 255, grey)), white.flatten(1)


def test_steps_that_change_nothing_come_to_have_the_same_tokens() -> None:
    net, rng = tokenizer("quantizer.levels=[3]"), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(200):
        learn(net, optimizer, some_steps(rng, 16, 0.5)[0])
    still = net.tokenize(some_steps(rng, 200, 0.0)[0])[:, 1]
    common = still.mode(0).values
    assert (still == common).all(1).float().mean() > 0.97, "whatever the frame shows"
    batch, white = some_steps(rng, 200, 0.5)
    others = (net.tokenize(batch)[:, 1] != common).any(1)
    assert (others == white.any(1)).float().mean() > 0.95, "and only those"
