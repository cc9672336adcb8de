"""What imagining one frame costs, by counting: calls of a net, layers run, multiplications.

A layer costs a slot 2 P + 4 d S FLOPs, where P are the weights that the slot meets, d is the width,
and S are the keys that it is multiplied with; masked keys cost as much as others. Norms, softmax
and embeddings are not counted, nor the heads of reward and end, which are alike in all dynamics.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK, SPACE_TIME = 12, 16
"""Weights of a layer, in squares of its width: one attention and a perceptron, or two."""


@dataclass(frozen=True)
class Stage:
    """`layers` alike layers with `weights` weights, through which `slots` slots of a row go."""

    slots: int
    layers: int
    weights: int
    keys: int = 0

    def flops(self, width: int) -> int:
        """Of one row."""
        return self.slots * self.layers * (2 * self.weights + 4 * width * self.keys)


@dataclass(frozen=True)
class Call:
    """Alike passes, one after the other: through layers of a net, and through single matrices."""

    times: int
    net: tuple[Stage, ...]
    matrices: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Cost:
    """Of one frame of one row: calls, layers run in all of them, and FLOPs of matrices."""

    calls: int
    layers: int
    flops: int


@dataclass(frozen=True)
class Sizes:
    """What the cost depends on.

    tokens: of a frame. past: frames in memory, the present one too. layers: of the whole net.
    vocab: 0 where logits are not to be counted.
    """

    tokens: int
    past: int
    width: int
    layers: int
    vocab: int

    def scored(self, tokens: int) -> tuple[Stage, ...]:
        """Logits of some tokens."""
        if not self.vocab:
            return ()
        return (Stage(tokens, 1, self.width * (self.width + self.vocab)),)

    def total(self, calls: tuple[Call, ...]) -> Cost:
        """The sum of calls."""
        flops = 0
        for call in calls:
            flops += call.times * sum(s.flops(self.width) for s in (*call.net, *call.matrices))
        layers = sum(call.times * sum(stage.layers for stage in call.net) for call in calls)
        return Cost(sum(call.times for call in calls), layers, flops)


def autoregressive(sizes: Sizes) -> tuple[Call, ...]:
    """A call for each token; the first takes in the token before it and the action.

    So the last token of a frame costs no call of its own.
    """
    weights, keys = BLOCK * sizes.width**2, sizes.past * (sizes.tokens + 1)
    slots = [2] + [1] * (sizes.tokens - 1)
    return tuple(
        Call(1, (Stage(n, sizes.layers, weights, keys + k),), sizes.scored(1))
        for k, n in enumerate(slots)
    )


def parallel(sizes: Sizes) -> tuple[Call, ...]:
    """One call on the tokens before it, the action, and a query for each token."""
    slots = 2 * sizes.tokens + 1
    keys = sizes.past * (sizes.tokens + 1) + sizes.tokens
    stage = Stage(slots, sizes.layers, BLOCK * sizes.width**2, keys)
    return (Call(1, (stage,), sizes.scored(sizes.tokens)),)


def block(sizes: Sizes, steps: int) -> tuple[Call, ...]:
    """`steps` calls on a frame and its action, then one that has a readout too and is kept."""
    asked, kept, weights = sizes.tokens + 1, sizes.tokens + 2, BLOCK * sizes.width**2
    denoise = Stage(asked, sizes.layers, weights, sizes.past * kept + asked)
    commit = Stage(kept, sizes.layers, weights, (sizes.past + 1) * kept)
    return (Call(steps, (denoise,), sizes.scored(sizes.tokens)), Call(1, (commit,)))


def space_time(sizes: Sizes, steps: int) -> tuple[Call, ...]:
    """The same where slots attend within their frame, then each to its own past."""
    asked, kept, weights = sizes.tokens + 1, sizes.tokens + 2, SPACE_TIME * sizes.width**2
    denoise = Stage(asked, sizes.layers, weights, asked + sizes.past + 1)
    commit = Stage(kept, sizes.layers, weights, kept + sizes.past + 1)
    return (Call(steps, (denoise,), sizes.scored(sizes.tokens)), Call(1, (commit,)))


def trunk_head(sizes: Sizes, steps: int, head: int) -> tuple[Call, ...]:
    """The same where only the last `head` layers denoise, and the others read the kept frame.

    The head attends to all that the trunk made of the past, for which the call that is kept works
    out the head's keys and values; the trunk's features are led into it by one map.
    """
    asked, kept, square = sizes.tokens + 1, sizes.tokens + 2, sizes.width**2
    denoise = Stage(asked, head, BLOCK * square, sizes.past * kept + asked)
    trunk = Stage(kept, sizes.layers - head, BLOCK * square, (sizes.past + 1) * kept)
    lead, keep = Stage(asked, 1, square), Stage(kept, head, 3 * square)
    return (
        Call(steps, (denoise,), (lead, *sizes.scored(sizes.tokens))),
        Call(1, (trunk,), (keep,)),
    )
