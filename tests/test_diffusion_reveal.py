"""What samplers draw, against exact laws: those that only ever show masked tokens."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.denoisers import (
    Table,
    chi_square,
    distance,
    frequencies,
    number,
    random_joint,
    states,
    tied_joint,
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
from worldmodels.diffusion.draws import ranks, uniforms
from worldmodels.diffusion.schedules import groups

VOCAB, TOKENS = 3, 3
WIDE = uniforms("cpu", torch.float64)
MASKS = all_masks(VOCAB, TOKENS)


@pytest.fixture
def table() -> Table:
    return Table(random_joint(VOCAB, TOKENS), VOCAB, TOKENS)


def law(name: str, table: Table, steps: int, *draws: Any, **rest: Any) -> Tensor:
    """What a sampler ends with (V^N,); draws as in `step_matrix`."""
    made = sampler(name, table.tokens, table.vocab, steps, **rest)
    matrices = [step_matrix(made, k, table, *draws) for k in range(steps)]
    ended = pushed(all_masks(table.vocab, table.tokens), matrices)
    return finished(ended, table.vocab, table.tokens)


def marginals(table: Table) -> Tensor:
    """The product (V^N,) of what the tokens are one by one."""
    each = table(torch.full((1, table.tokens), table.vocab)).exp()[0]
    return each[torch.arange(table.tokens), table.frames].prod(-1)


def by_groups(table: Table, sizes: tuple[int, ...]) -> Tensor:
    """The law (V^N,) of drawing groups in random order, each token of a group by itself."""
    total = torch.zeros(len(table.frames)).double()
    places = list(permutations(range(table.tokens)))
    for order in places:
        chance, z, done = torch.ones(len(total)).double(), torch.full_like(table.frames, VOCAB), 0
        for size in sizes:
            group = list(order[done : done + size])
            probs = table(z).exp().gather(-1, table.frames[..., None])[..., 0]
            chance = chance * probs[:, group].prod(-1)
            z[:, group] = table.frames[:, group]
            done += size
        total = total + chance / len(places)
    return total


@pytest.mark.parametrize("shape", ["linear", "cosine", "copilot"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_random_order_draws_its_groups_one_after_the_other(
    table: Table, steps: int, shape: str
) -> None:
    found = law("random", table, steps, values, orders, shape=shape)
    assert distance(found, by_groups(table, groups(TOKENS, steps, shape))) < 1e-12
    if steps == 1:
        assert distance(found, marginals(table)) < 1e-12
    if steps == TOKENS:
        assert distance(found, table.joint) < 1e-12


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize(
    ("name", "draws", "rest"),
    [
        ("random", (values, orders), {}),
        ("event_first", (values,), {"budget": 0.9}),
        ("entropy_bounded", (values,), {"budget": 0.9}),
    ],
)
def test_samplers_draw_from_their_law(
    table: Table, name: str, draws: Any, rest: dict[str, Any], steps: int
) -> None:
    """In float32 as well, with torch's own numbers."""
    expected = law(name, table, steps, *draws, **rest)
    table.table = table.table.float()
    z = sampler(name, TOKENS, VOCAB, steps, **rest)(table, torch.full((100_000, TOKENS), VOCAB)).z
    assert chi_square(frequencies(z, VOCAB) * 1e5, expected) > 1e-3


def confident(table: Table, noise: float, sizes: tuple[int, ...]) -> Tensor:
    """The law (V^N,) of MaskGIT, in which places win by Gumbel noise: Plackett and Luce's law."""
    z, value, law = states(VOCAB + 1, TOKENS), states(VOCAB, TOKENS), MASKS
    masked = z == VOCAB
    score = table(z)[:, torch.arange(TOKENS), value]
    for k, size in enumerate(sizes):
        step = torch.zeros(len(z), len(z)).double()
        tau = noise * (1 - (k + 1) / len(sizes))
        # Without noise the likeliest place wins for certain.
        strength = (score / tau).exp() if tau else 1e30 ** ranks(score).double()
        strength = strength * masked[:, None]
        for order in permutations(range(TOKENS)):
            chance, left = score.exp().prod(-1), strength.clone()
            for place in order:
                wins = left[..., place] / left.sum(-1)
                chance = torch.where(masked[:, None, place], chance * wins, chance)
                left[..., place] = 0
            # Visible places come after masked ones, in one order only.
            key = torch.where(masked[:, list(order)], -1, torch.tensor(order))
            chance = chance.masked_fill((key.diff(dim=-1) < 0).any(-1)[:, None], 0)
            first = torch.zeros(TOKENS).bool().scatter(0, torch.tensor(order[:size]), True)
            after = torch.where(masked[:, None] & first, value, z[:, None])
            step.scatter_add_(1, number(after, VOCAB + 1), chance)
        law = law @ step
    return finished(law, VOCAB, TOKENS)


@pytest.mark.parametrize("steps", [2, 3])
def test_confidence_draws_the_law_of_maskgit(table: Table, steps: int) -> None:
    sizes = groups(TOKENS, steps, "cosine")
    found = law("confidence", table, steps, values, any_number, noise=0.0)
    assert distance(found, confident(table, 0.0, sizes)) < 1e-12
    made = sampler("confidence", TOKENS, VOCAB, steps, noise=1.0)
    z = made(table, torch.full((100_000, TOKENS), VOCAB), WIDE).z
    counts = frequencies(z, VOCAB) * len(z)
    assert chi_square(counts, confident(table, 1.0, sizes)) > 1e-3


def test_confidence_is_biased_and_the_less_so_the_more_noise(table: Table) -> None:
    ones = (1,) * TOKENS
    apart = [distance(confident(table, noise, ones), table.joint) for noise in (0, 1, 4, 50)]
    assert apart[0] > 0.05 and sorted(apart, reverse=True) == apart and apart[-1] < 0.01
    made = sampler("confidence", TOKENS, VOCAB, TOKENS, noise=1e6)
    z = made(table, torch.full((100_000, TOKENS), VOCAB), WIDE).z
    assert chi_square(frequencies(z, VOCAB) * len(z), table.joint) > 1e-3


def test_of_two_calls_the_first_shows_the_surest_places_of_maskgit() -> None:
    """The last call must show all, although the first has its noise: 1 - 1/2."""
    made = sampler("confidence", 8, 2, 2, noise=0.0)
    # Each place surer than the one before it.
    logits = torch.stack([torch.zeros(8), torch.arange(8.0) + 20], -1).double()
    first, last = made(lambda z: logits.expand(len(z), -1, -1), torch.full((1, 8), 2)).trace
    assert (first.z[0] < 2).tolist() == [i >= 5 for i in range(8)]
    assert (last.z < 2).all()


@pytest.mark.parametrize("name", ["event_first", "entropy_bounded"])
def test_without_a_budget_bounded_samplers_show_one_by_one(table: Table, name: str) -> None:
    found = law(name, table, TOKENS, values, budget=0.0)
    assert distance(found, table.joint) < 1e-12
    lavish = law(name, table, TOKENS, values, budget=100.0)
    assert distance(lavish, marginals(table)) < 1e-12


def test_bounded_samplers_show_what_their_budget_allows() -> None:
    # Entropies of 0.69, 0.10, 0.20, 0.33, 0.03 nats.
    rare = torch.tensor([0.5, 0.0203, 0.0495, 0.1, 0.005])
    logits = torch.stack([1 - rare, rare], -1).log()

    def shown(name: str, budget: float, *given: int) -> list[int]:
        made = sampler(name, 5, 2, 3, budget=budget)
        z = torch.full((1, 5), 2)
        z[0, list(given)] = 0
        first = made(lambda z: logits.expand(len(z), -1, -1), z).trace[0]
        return [i for i in range(5) if first.z[0, i] < 2 and i not in given]

    # The least sure one with the surest, of which the sum counts.
    assert shown("event_first", 0.0) == [0]
    assert shown("event_first", 0.05) == [0, 4]
    assert shown("event_first", 0.14) == [0, 1, 4]
    assert shown("event_first", 0.35) == [0, 1, 2, 4]
    assert shown("event_first", 0.35, 0, 4) == [1, 2, 3]
    # The surest: the sum but for the last counts.
    assert shown("entropy_bounded", 0.0) == [4]
    assert shown("entropy_bounded", 0.05) == [1, 4]
    assert shown("entropy_bounded", 0.14) == [1, 2, 4]
    assert shown("entropy_bounded", 0.35) == [1, 2, 3, 4]
    assert shown("entropy_bounded", 0.14, 4) == [1, 2]


def test_event_first_draws_a_frame_of_one_event_in_two_calls() -> None:
    """One of three events decides four tokens, each of which is now and then another."""
    event = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]])
    frames, hit = states(3, 4), 0.995
    right = (frames[:, None] == event).double()
    each = torch.where(right > 0, hit, (1 - hit) / 2).prod(-1)
    joint = (each * torch.tensor([0.5, 0.3, 0.2])).sum(-1)
    table = Table(joint, 3, 4)
    z0 = torch.full((20_000, 4), 3)
    out = sampler("event_first", 4, 3, 4)(table, z0)
    calls = 1 + sum((now.z == 3).any(-1).double().mean() for now in out.trace)
    assert float(calls) == pytest.approx(2, abs=0.1)
    apart = distance(frequencies(out.z, 3), joint)
    fixed = distance(frequencies(sampler("random", 4, 3, 2)(table, z0).z, 3), joint)
    assert apart < 0.02 and fixed > 5 * apart


COIN, TIED = 0.3, 4


@pytest.fixture
def coin() -> Table:
    return Table(tied_joint(TIED, COIN), 2, TIED)


def broken(found: Tensor) -> float:
    """How likely a frame (2^N,) of tied tokens is none."""
    return float(found[1:-1].sum())


def test_tokens_that_are_tied_come_apart_in_one_call(coin: Table) -> None:
    alone = law("random", coin, 1, values, orders)
    assert broken(alone) == pytest.approx(1 - COIN**TIED - (1 - COIN) ** TIED, abs=1e-12)
    two = law("random", coin, 2, values, orders)
    assert 0 < broken(two) < broken(alone)
    # Both of the first group alike, or the rest is torn as well.
    assert broken(two) == pytest.approx(2 * COIN * (1 - COIN), abs=1e-12)
    for exact in (
        law("random", coin, TIED, values, orders),
        law("event_first", coin, 2, values),
        law("entropy_bounded", coin, 2, values),
    ):
        assert broken(exact) < 1e-12
        assert float(exact[-1]) == pytest.approx(COIN, abs=1e-12)
    greedy = law("confidence", coin, TIED, values, any_number, noise=0.0)
    assert float(greedy[-1]) == pytest.approx(COIN**TIED, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, TIED])
def test_the_event_is_as_frequent_as_it_is(coin: Table, steps: int) -> None:
    z0 = torch.full((40_000, TIED), 2)
    error = 3 * math.sqrt(COIN * (1 - COIN) / len(z0))
    for name in ("random", "event_first", "entropy_bounded", "ancestral", "remask", "gibbs"):
        z = sampler(name, TIED, 2, steps)(coin, z0).z
        # Of whole frames where they are not torn; of single tokens always.
        if name != "gibbs":
            assert float((z[:, 0] == 1).double().mean()) == pytest.approx(COIN, abs=error), name
        if steps == TIED and name not in ("ancestral", "remask"):
            assert float(z.all(-1).double().mean()) == pytest.approx(COIN, abs=error), name
