"""What samplers draw, against exact laws: those that change tokens they have shown."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor

from tests.denoisers import (
    Bent,
    Table,
    chi_square,
    distance,
    frequencies,
    number,
    random_joint,
    states,
)
from tests.sampler_laws import (
    all_masks,
    any_number,
    finished,
    orders,
    pushed,
    sampler,
    step_matrix,
    values,
)
from worldmodels.diffusion.draws import uniforms
from worldmodels.diffusion.processes import Uniform
from worldmodels.diffusion.schedules import Linear, groups

VOCAB, TOKENS = 3, 3
WIDE = uniforms("cpu", torch.float64)
MASKS = all_masks(VOCAB, TOKENS)
EVERY = states(VOCAB + 1, TOKENS)


@pytest.fixture
def table() -> Table:
    return Table(random_joint(VOCAB, TOKENS), VOCAB, TOKENS)


def by_groups(table: Table, steps: int) -> Tensor:
    """The law (V^N,) of the sampler `random`."""
    made = sampler("random", TOKENS, VOCAB, steps)
    matrices = [step_matrix(made, k, table, values, orders) for k in range(steps)]
    return finished(pushed(MASKS, matrices), VOCAB, TOKENS)


@pytest.mark.parametrize("shape", ["copilot", "cosine"])
@pytest.mark.parametrize("visible", ["resample", "keep"])
def test_copilot4d_rewrites_what_it_should(table: Table, shape: str, visible: str) -> None:
    """Against algorithm 2, read line by line, without noise."""
    bent, steps = Bent(table, 1.0), 2
    made = sampler("copilot4d", TOKENS, VOCAB, steps, shape=shape, visible=visible, noise=0.0)
    shown = list(accumulate(groups(TOKENS, steps, shape)))
    for k in range(steps):
        expected = torch.zeros(64, 64).double()
        for row, now in enumerate(EVERY):
            logp = bent(now[None])[0].log_softmax(-1)
            for value in states(VOCAB, TOKENS):
                score = logp[torch.arange(TOKENS), value]
                ell = torch.where(now == VOCAB, score, torch.inf)
                top = sorted(range(TOKENS), key=lambda i: -float(ell[i]))[: shown[k]]
                after = now.clone()
                for i in range(TOKENS):
                    new = now[i] == VOCAB and i in top
                    if new or (now[i] < VOCAB and visible == "resample"):
                        after[i] = value[i]
                expected[row, number(after, VOCAB + 1)] += score.exp().prod()
        found = step_matrix(made, k, bent, values, any_number)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("visible", ["resample", "keep"])
def test_copilot4d_draws_from_the_law_of_its_steps(table: Table, visible: str) -> None:
    """In float32 as well, with torch's own numbers."""
    bent = Bent(table, 1.0)
    made = sampler("copilot4d", TOKENS, VOCAB, 3, visible=visible, noise=0.0)
    steps = [step_matrix(made, k, bent, values, any_number) for k in range(3)]
    expected = finished(pushed(MASKS, steps), VOCAB, TOKENS)
    bent.table = bent.table.float()
    z = made(bent, torch.full((100_000, TOKENS), VOCAB)).z
    assert chi_square(frequencies(z, VOCAB) * 1e5, expected) > 1e-3


def test_without_revision_copilot4d_is_maskgit() -> None:
    logits = torch.randn(8, VOCAB)
    z0, made = torch.full((50, 8), VOCAB), []
    for name, rest in (("copilot4d", {"visible": "keep"}), ("confidence", {})):
        torch.manual_seed(4)
        drawn = sampler(name, 8, VOCAB, 4, shape="cosine", noise=2.0, **rest)
        made.append(drawn(lambda z: logits.expand(len(z), -1, -1), z0).trace)
    for copilot, maskgit in zip(*made, strict=True):
        assert torch.equal(copilot.z, maskgit.z) and torch.equal(copilot.prob, maskgit.prob)


def test_the_noise_of_copilot4d_falls_to_none() -> None:
    """With a lot of it the order is random but in the last call, which shows all anyway."""
    made = sampler("copilot4d", 4, VOCAB, 4, visible="keep", noise=1e6)
    logits = torch.randn(4, VOCAB)
    first = made(lambda z: logits.expand(len(z), -1, -1), torch.full((40_000, 4), VOCAB)).trace[0]
    counts = (first.z < VOCAB).double().sum(0)
    assert chi_square(counts, torch.full((4,), 0.25).double()) > 1e-3


def test_revising_without_noise_drifts(table: Table) -> None:
    """Tokens of a perfect frame, drawn anew all at once from what is thought of noised ones."""
    kernel, t = Uniform(vocab=VOCAB, schedule=Linear()), torch.tensor(0.05).double()
    z = EVERY.clamp_max(VOCAB - 1)
    anew = table.full(z, kernel, t)
    step = anew[:, torch.arange(TOKENS)[:, None], EVERY.clamp_max(VOCAB - 1).T]
    chance = step.prod(1).masked_fill((EVERY == VOCAB).any(-1), 0)
    law = torch.zeros(64).double()
    law[number(table.frames, VOCAB + 1)] = table.joint
    apart = [distance(pushed(law, [chance] * n), law) for n in (1, 2, 4, 8)]
    assert apart[0] > 0.003 and sorted(apart) == apart and apart[-1] > 2 * apart[0]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_first_sweep_of_gibbs_is_random(table: Table, steps: int) -> None:
    made = sampler("gibbs", TOKENS, VOCAB, steps, sweeps=1)
    out = made(table, torch.full((100_000, TOKENS), VOCAB), WIDE)
    assert len(out.trace) == steps == made.calls
    assert chi_square(frequencies(out.z, VOCAB) * 1e5, by_groups(table, steps)) > 1e-3


def test_sweeps_keep_the_law_and_lead_to_it(table: Table) -> None:
    exact = table.frames[table.joint.multinomial(100_000, replacement=True)]
    made = sampler("gibbs", TOKENS, VOCAB, TOKENS, sweeps=1)
    assert made.calls == TOKENS
    counts = frequencies(made(table, exact, WIDE).z, VOCAB) * 1e5
    assert chi_square(counts, table.joint) > 1e-3
    z = torch.zeros(100_000, TOKENS).long()
    apart = [distance(frequencies(z, VOCAB), table.joint)]
    for _ in range(4):
        z = made(table, z, WIDE).z
        apart.append(distance(frequencies(z, VOCAB), table.joint))
    assert apart[1] < apart[0] / 2 and apart[4] < 0.02, apart
    rough = sampler("random", TOKENS, VOCAB, 1)(table, torch.full_like(exact, VOCAB), WIDE).z
    mended = sampler("gibbs", TOKENS, VOCAB, TOKENS, sweeps=2)(table, rough, WIDE)
    assert distance(frequencies(mended.z, VOCAB), table.joint) < 0.02
    assert len(mended.trace) == 2 * TOKENS


def test_a_sweep_hides_every_place_once() -> None:
    seen: list[Tensor] = []

    def watch(z: Tensor) -> Tensor:
        seen.append(z == VOCAB)
        return torch.zeros(*z.shape, VOCAB)

    sampler("gibbs", 5, VOCAB, 2, sweeps=2)(watch, torch.zeros(100, 5).long())
    hidden = torch.stack(seen)
    for sweep in (hidden[:2], hidden[2:]):
        assert (sweep.sum(0) == 1).all()
    assert hidden[0].double().mean(0).min() > 0.2 and (hidden[0] != hidden[2]).any()


def masks_only(z: Tensor) -> Tensor:
    """A planner that thinks all visible tokens are right."""
    return (z == VOCAB).double()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_planned_by_masks_is_random(table: Table, steps: int) -> None:
    z0 = torch.full((100_000, TOKENS), VOCAB)
    made = sampler("planned", TOKENS, VOCAB, steps)
    counts = frequencies(made(table, z0, WIDE, plan=masks_only).z, VOCAB) * 1e5
    assert chi_square(counts, by_groups(table, steps)) > 1e-3


def test_a_planner_picks_the_places_that_are_drawn_anew(table: Table) -> None:
    """One wrong token of which the planner is sure: it alone changes, to what the others say."""
    z0 = torch.tensor([[0, 1, 2]]).expand(60_000, -1)

    def second(z: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.0]).double().expand(z.shape)

    z = sampler("planned", TOKENS, VOCAB, 1)(table, z0, WIDE, plan=second).z
    assert torch.equal(z[:, [0, 2]], z0[:, [0, 2]])
    law = table(torch.tensor([[0, VOCAB, 2]]))[0, 1].exp()
    assert chi_square(z[:, 1].bincount(minlength=VOCAB).double(), law) > 1e-3

    def unsure(z: Tensor) -> Tensor:
        return torch.tensor([0.1, 0.3, 0.6]).double().expand(z.shape)

    asked: list[Tensor] = []

    def two(z: Tensor) -> Tensor:
        asked.append(z)
        return torch.tensor([-torch.inf, -torch.inf, 0.0]).expand(*z.shape, -1)

    zeros = torch.zeros(60_000, TOKENS).long()
    made = sampler("planned", TOKENS, VOCAB, 3, finish=1.0)
    first = made(two, zeros, WIDE, plan=unsure).trace[0]
    picked = (first.z == 2).double()
    assert (picked.sum(-1) == 1).all()
    law = torch.tensor([0.1, 0.3, 0.6]).double()
    assert chi_square(picked.sum(0), law) > 1e-3
    # The denoiser sees none of those picked, and the others as often as they are no noise.
    hidden, other = asked[0] == VOCAB, first.z != 2
    assert hidden[~other].all()
    share = (hidden & other).double().sum(0) / other.double().sum(0)
    torch.testing.assert_close(share, law, rtol=0, atol=0.012)


def test_planned_cleans_uniform_noise() -> None:
    """The planner knows the law too; its time is that of how much noise is left."""
    table = Table(random_joint(VOCAB, TOKENS, sharpness=3.0), VOCAB, TOKENS)
    kernel = Uniform(vocab=VOCAB, schedule=Linear())
    z0 = kernel.prior((20_000, TOKENS), WIDE)
    made = sampler("planned", TOKENS, VOCAB, TOKENS)
    left = [1.0, 0.6, 0.3]

    def plan(z: Tensor) -> Tensor:
        full = table.full(z.clamp_max(VOCAB - 1), kernel, torch.tensor(left.pop(0)).double())
        same = full.gather(-1, z.clamp_max(VOCAB - 1)[..., None])[..., 0]
        return 1 - same

    apart = distance(frequencies(made(table, z0, WIDE, plan=plan).z, VOCAB), table.joint)
    assert apart < distance(frequencies(z0, VOCAB), table.joint) / 2


def test_without_a_planner_the_denoiser_doubts(table: Table) -> None:
    """It is sure of the visible tokens but for one that it thinks impossible."""
    wanted = torch.tensor([0, 1, 2])
    logits = torch.where(wanted[:, None] == torch.arange(VOCAB), 0.0, -torch.inf)
    z0 = torch.tensor([[0, 2, 2], [VOCAB, 1, 2]])
    out = sampler("planned", TOKENS, VOCAB, 1)(lambda z: logits.expand(len(z), -1, -1), z0)
    assert torch.equal(out.z, wanted.expand(2, -1))
