"""What a frame costs by counting, against numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runners.bench_costs import (
    Call,
    Sizes,
    autoregressive,
    block,
    parallel,
    space_time,
    trunk_head,
)

TABLE = [
    (4, 2, 3, 3.6, 1.5, 4.7),
    (4, 4, 5, 6.0, 2.1, 7.8),
    (16, 4, 5, 5.3, 1.8, 6.4),
    (16, 8, 9, 9.5, 2.7, 11.5),
    (64, 4, 5, 5.1, 1.5, 4.8),
    (64, 8, 9, 9.1, 2.2, 8.7),
]
"""Estimates for width 512, 8 layers and 20 frames: tokens, calls of the denoiser, calls in all, and
FLOPs beside autoregressive of block, of a trunk of 6 with a head of 2, and of st."""


def estimated(calls: tuple[Call, ...], tokens: int, local: bool = False) -> tuple[Call, ...]:
    """The calls as TABLE counts them: a readout in every one; a `local` head sees its frame."""
    asked, *rest = calls
    stage = replace(asked.net[0], slots=tokens + 2)
    if local:
        stage = replace(stage, keys=tokens + 2)
    # It leaves out what leads from the trunk to the head.
    return tuple(replace(c, matrices=()) for c in (replace(asked, net=(stage,)), *rest))


@pytest.mark.parametrize(("tokens", "steps", "calls", "whole", "split", "apart"), TABLE)
def test_costs_are_those_estimated_by_hand(
    tokens: int, steps: int, calls: int, whole: float, split: float, apart: float
) -> None:
    sizes = Sizes(tokens, 20, 512, 8, vocab=0)
    base = sizes.total(autoregressive(sizes))
    # By hand, the last token of a frame has a call of its own.
    assert base.calls + 1 == tokens + 1

    def ratio(found: tuple[Call, ...], local: bool = False) -> float:
        return sizes.total(estimated(found, tokens, local)).flops / base.flops

    assert sizes.total(block(sizes, steps)).calls == calls
    assert ratio(block(sizes, steps)) == pytest.approx(whole, rel=0.02)
    assert ratio(trunk_head(sizes, steps, 2), local=True) == pytest.approx(split, rel=0.035)
    assert ratio(space_time(sizes, steps)) == pytest.approx(apart, rel=0.02)


def test_sixteen_tokens_in_four_calls_counted_one_by_one() -> None:
    sizes = Sizes(16, 20, 512, 8, vocab=0)
    weights, attention = 2 * 12 * 512**2, 4 * 512
    # 17 slots, of which the first two see 340 keys, and each later one sees one more.
    slots = 2 * (weights + attention * 340)
    slots += sum(weights + attention * (340 + k) for k in range(1, 16))
    cost = sizes.total(autoregressive(sizes))
    assert (cost.calls, cost.layers, cost.flops) == (16, 128, 8 * slots)
    cost = sizes.total(block(sizes, 4))
    assert (cost.calls, cost.layers) == (5, 40)
    asked, kept = 17 * (weights + attention * 377), 18 * (weights + attention * 378)
    assert cost.flops == 8 * (4 * asked + kept)
    cost = sizes.total(trunk_head(sizes, 4, 2))
    assert (cost.calls, cost.layers) == (5, 14)
    # The map into the head, and the head's keys and values of the kept frame.
    others = 4 * 17 * 2 * 512**2 + 18 * 2 * 2 * 3 * 512**2
    assert cost.flops == 4 * 2 * asked + 6 * kept + others
    cost = sizes.total(parallel(sizes))
    assert (cost.calls, cost.layers) == (1, 8)
    assert cost.flops == 8 * 33 * (weights + attention * 356)
