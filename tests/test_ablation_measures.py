"""The numbers of a comparison, of dynamics that know the law of made-up frames."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.ablation_measures import dreamed, f1, known, total_variation
from runners.hardware import Hardware
from worldmodels.batch import Batch
from worldmodels.protocols import Prediction, Prev
from worldmodels.world_model import WorldModel

VOCAB, STEPS, CONTEXT = 8, 6, 2


class Levels:
    """A tokenizer of grey frames: token 0 is their level, token 1 always 7."""

    vocab, tokens, dim, square = VOCAB, 2, 1, (1, 2)

    def tokenize(self, batch: Batch) -> Tensor:
        level = batch.obs[..., 0, 0, 0].long()
        return torch.stack((level, torch.full_like(level, 7)), -1)

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        level = tokens[..., 0, None, None, None].to(torch.uint8)
        return level.expand(*tokens.shape[:2], 2, 2, 3)

    def known(self) -> None:
        return None


class Rising:
    """Says that the level rises by what is done, with that probability, and pays for it at 4."""

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def start(self, batch: Batch, tokens: Tensor) -> Tensor:
        return tokens[:, -1, 0]

    def step(
        self, memory: Tensor, act: Tensor, tokens: Tensor | None, known: Any = None
    ) -> tuple[Tensor, Prediction]:
        level = (memory + act) % VOCAB
        likely = torch.stack((level, torch.full_like(level, 7)), -1)
        rest = math.log((1 - self.prob) / (VOCAB - 1))
        logits = torch.full((*likely.shape, VOCAB), rest)
        logits.scatter_(-1, likely[..., None], math.log(self.prob))
        paid = (level == 4).float()
        said = likely if tokens is None else tokens
        return memory, Prediction(said, logits, paid, paid.bool(), paid * 0)

    def see(self, memory: Tensor, obs: Tensor | None, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def windows() -> Batch:
    """Levels that rise by 1 or stay, as was done; 4 is paid for when it is reached."""
    act = torch.randint(0, 2, (40, STEPS), generator=torch.Generator().manual_seed(0))
    level = torch.cat((torch.zeros(40, 1, dtype=torch.int64), act.cumsum(1)), 1)
    obs = level[..., None, None, None].expand(-1, -1, 2, 2, 3).to(torch.uint8)
    no = torch.zeros(40, STEPS, dtype=torch.bool)
    return Batch(obs, act, (level[:, 1:] == 4).float(), no, no, ~no)


def world_model(prob: float) -> WorldModel:
    return WorldModel(
        tokenizer=Levels(),  # type: ignore[arg-type]
        dynamics=Rising(prob),  # type: ignore[arg-type]
        draws=True,
    )


def test_who_knows_the_law_pays_fewer_nats() -> None:
    batch = windows()
    knows, doubts = (known(world_model(prob), batch) for prob in (0.99, 0.5))
    assert knows.nats == pytest.approx(-2 * math.log(0.99), rel=1e-4)
    assert doubts.nats == pytest.approx(-2 * math.log(0.5), rel=1e-4)
    assert knows.nats_at == {1: knows.nats}
    assert knows.changed == 1 and knows.reward_error == 0 and knows.reward_f1 == 1
    # No window has an end.
    assert math.isnan(knows.end_f1)
    # Below an even share, the likeliest is anything else.
    assert known(world_model(0.05), batch).changed == 0


def test_dreams_of_who_knows_the_law_are_true() -> None:
    batch, cpu = windows(), Hardware(torch.device("cpu"), torch.float32)
    found = dreamed(world_model(0.99), batch, CONTEXT, cpu)
    assert found.mse == found.recon_mse == (0,) * (STEPS - CONTEXT)
    risen = batch.act[:, CONTEXT:].cumsum(1).float().square().mean(0) / 255**2
    assert found.copy_mse == pytest.approx(risen.tolist())
    assert found.events == found.true_events > 0 and found.apart == 0
    # Told that nothing was done, it stays where it was.
    still = Batch(batch.obs, batch.act * 0, batch.rew, batch.end, batch.trunc, batch.valid)
    found = dreamed(world_model(0.99), still, CONTEXT, cpu)
    assert found.mse == pytest.approx(found.copy_mse) and found.apart > 0.1


def test_small_measures() -> None:
    true = torch.tensor([True, True, False, False])
    said = torch.tensor([True, False, True, False])
    assert f1(said, true) == 0.5 and f1(~true, true) == 0 and f1(true, true) == 1
    a = torch.tensor([[[0, 1], [0, 1]], [[1, 1], [1, 1]]])
    # Of the first place half of the mass is elsewhere, of the second all.
    assert total_variation(a, a * 0, 2) == 0.75 and total_variation(a, a, 2) == 0
