"""The interfaces between the parts of a world model, and the small values they exchange.

Axes: B batch, T steps, K tokens a frame, V vocabulary, D width, *O what one frame has: H W C of a
picture, several tensors where the environment shows several things. Actions are (B,...) of a single
choice, else (B,...,A).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from envs.spaces import Obs
from worldmodels.batch import Batch


@dataclass(frozen=True)
class Loss:
    """What one batch costs: `total` to differentiate, named `parts` to log.

    Both are means over the batch's valid steps. `learn` carries what the part wants back after
    the optimiser's step (vectors for a codebook, say), a row per batch row.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    learn: Any = None


@dataclass(frozen=True)
class Prev:
    """The frames and actions before other frames: obs (B,T,*O), act (B,T)."""

    obs: Obs
    act: Tensor


@dataclass(frozen=True)
class Quantized:
    """Vectors made discrete: z (...,d) with gradients to the input, codes (...), loss (...).

    Each vector's loss is its own, whatever else is in the batch, so that padding can be left out
    and batches cut into slices. `parts` names the terms it is the sum of.
    """

    z: Tensor
    codes: Tensor
    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What the dynamics expects of one action.

    tokens (B,K) sampled or given; logits (B,K,V) they were scored with, -inf for tokens that may
    not be; rew (B,); end (B,) bool sampled; end_prob (B,).
    """

    tokens: Tensor
    logits: Tensor
    rew: Tensor
    end: Tensor
    end_prob: Tensor


@dataclass(frozen=True)
class Outlook:
    """What the dynamics expects of one action, nothing of it drawn: fields as of Prediction."""

    logits: Tensor
    rew: Tensor
    end_prob: Tensor


@dataclass(frozen=True)
class State:
    """An imagined moment: the dynamics' memory, and what it has led to.

    obs (B,*O) is the frame; None where imagination draws none. tokens (B,K).
    """

    memory: Any
    obs: Obs | None
    tokens: Tensor


class Quantizer(Protocol):
    """Turns vectors (...,K,dim) into codes (...,K) below `size`, the last axis K a frame's tokens.

    The forward pass changes no state; `update`, after the optimiser's step, does.
    """

    size: int
    dim: int

    def __call__(self, z: Tensor) -> Quantized:
        """Quantise; float32 inside whatever the autocast."""

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (...,dim) of codes (...)."""

    def update(self, z: Tensor, codes: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Learn from vectors (...,K,dim) with codes (...,K) where weight (...,K) is 1, not 0.

        Returns metrics, those of `usage.Usage.metrics` among them; never waits for the host.
        """


class Tokenizer(Protocol):
    """Turns frames into `tokens` tokens below `vocab`, and back, given the step before.

    Each token stands for a vector of `dim` numbers. `square`: the rows and columns of pixels that
    are a token's own, the tokens of a frame being row by row; None where none has such a place.
    `spans`: which tokens are of which observation, where there are several.
    """

    vocab: int
    tokens: int
    dim: int
    square: tuple[int, int] | None
    spans: Mapping[str, slice]

    def encode(self, prev: Prev, obs: Obs) -> Tensor:
        """Tokens (B,T,K) of frames (B,T,*O)."""

    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of a window: tokens[:, t] describes obs[:, t]."""

    def decode(self, prev: Prev, tokens: Tensor) -> Obs:
        """Frames (B,T,*O) of tokens (B,T,K)."""

    def embed(self, tokens: Tensor) -> Tensor:
        """The vectors (...,K,dim) float32 that tokens (...,K) stand for."""

    def known(self) -> Tensor | None:
        """(K,vocab) bool: tokens that stand for something, at least one each; None where all do."""

    def loss(self, batch: Batch) -> Loss:
        """Reconstruction of a window's frames, a mean over those that `weight` counts."""

    def weight(self, batch: Batch) -> Tensor:
        """(B,): how many frames of each row the loss counts."""

    def learn(self, seen: Any) -> dict[str, Tensor]:
        """Take in Loss.learn after an optimiser step; returns metrics."""


class EntryTokenizer(Protocol):
    """Turns one entry of an observation, vectors (...,D), into `tokens` tokens below `vocab`.

    And back; what came before plays no part. Each token stands for a vector of `dim` numbers.
    """

    vocab: int
    tokens: int
    dim: int

    def fit(self, x: Tensor) -> None:
        """Take in warm-up data (N,D), once and before anything else; may wait for the host."""

    def encode(self, x: Tensor) -> Tensor:
        """Tokens (...,K) of vectors (...,D)."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors (...,D) of tokens (...,K)."""

    def embed(self, tokens: Tensor) -> Tensor:
        """The vectors (...,K,dim) float32 that tokens (...,K) stand for."""

    def known(self) -> Tensor | None:
        """(K,vocab) bool: tokens that stand for something, where not all do."""

    def loss(self, x: Tensor, counted: Tensor) -> Loss:
        """Reconstruction of vectors (B,T,D), a mean over those with counted (B,T)."""

    def learn(self, seen: Any) -> dict[str, Tensor]:
        """Take in Loss.learn after an optimiser step; returns metrics; never waits."""


class Layout(Protocol):
    """Orders an episode as root, then per step [act | tokens | look]: `stride` positions a step.

    `root_size` positions open the sequence, `act_size` of a step tell its action, `answer_size` the
    `tokens` of the frame it led to, `look_size` show that frame.
    `whole`: whether tokens show whole frames, not what changed. Where neither tokens nor looks show
    a frame, the first real one of each row stands where its moment ends; `root_size` is 1 then.
    `spans`: which tokens are of which observation, where there are several.
    """

    tokens: int
    whole: bool
    spans: Mapping[str, slice]
    root_size: int
    act_size: int
    answer_size: int
    look_size: int
    stride: int

    def root(self, obs: Obs | None, tokens: Tensor) -> Tensor:
        """(B,root_size,D): opens a sequence at a frame (B,*O) with tokens (B,K).

        The frame may be None where tokens show it.
        """

    def act(self, act: Tensor) -> Tensor:
        """(...,act_size,D) of actions."""

    def answer(self, tokens: Tensor) -> Tensor:
        """(...,answer_size,D) of tokens (...,K); of some tokens where each has a position."""

    def look(self, obs: Obs) -> Tensor:
        """(...,look_size,D) of frames (...,*O)."""


class Dynamics(Protocol):
    """Predicts tokens, reward and end of the next step. Memory is an argument and a result.

    `frame_values`: numbers in the largest activation that the loss has for one frame. `width`:
    numbers in the features of a moment.
    """

    frame_values: int
    width: int

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Scores tokens (B,T+1,K), of which tokens[:, t] describes obs[:, t]."""

    def start(self, batch: Batch, tokens: Tensor) -> Any:
        """The memory of a real past that ends at obs[:, -1]."""

    def step(
        self, memory: Any, act: Tensor, tokens: Tensor | None, known: Tensor | None = None
    ) -> tuple[Any, Prediction]:
        """Act (B,); sample the next tokens, or score the given ones (B,K).

        known (K,V) bool: the tokens that may be sampled; None all.
        """

    def see(self, memory: Any, obs: Obs | None, tokens: Tensor) -> Any:
        """Show the frame (B,*O) that the step led to, and its tokens (B,K).

        The frame may be None where the layout looks at none.
        """

    def moments(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Features (B,T+1,width) float32 of the frames of a window: what is known there.

        Each depends on its frame's own tokens and on what came before. No dropout.
        """

    def moment(self, memory: Any) -> Tensor:
        """The same (B,width) of an imagined moment, to which a step has led; changes no memory."""


@runtime_checkable
class Foreseeing(Dynamics, Protocol):
    """Dynamics that know the laws of all tokens of the next step before any is drawn."""

    def outlook(self, memory: Any, act: Tensor, known: Tensor | None = None) -> Outlook:
        """What `step` would say of an action, with gradients to it; changes no memory."""
