"""The interfaces between the parts of an agent, and what an agent hands to a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from envs.spaces import Obs, Space
from worldmodels.batch import Batch
from worldmodels.nets.heads import Target
from worldmodels.protocols import Loss, State
from worldmodels.world_model import WorldModel

Carry = tuple[Tensor, ...]

Kept = tuple[Tensor, ...]
"""What a policy gradient keeps of moments, a row for each rollout."""

Values = Callable[[], Tensor]
"""A critic's values (B,H+1) of the moments of a rollout, float32, worked out when called."""


@dataclass(frozen=True)
class Decision:
    """What the policy makes of what it sees: outputs of the actor and of the critic (B,T,size).

    An ActionHead reads the actor's, the actor-critic's `value` target the critic's.
    """

    actor: Tensor
    critic: Tensor


@dataclass(frozen=True)
class Vectors:
    """A view that shows `count` vectors of `size` numbers, float32."""

    count: int
    size: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.count, self.size


class ActionHead(Protocol):
    """What a policy's `size` outputs for a moment say about its action.

    Actions are (...) int64 of a single choice, (...,A) int64 of several, (...,A) float32 in [-1,1].
    Draws are from torch's global generator; nothing waits for the host.
    """

    size: int

    def sample(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Actions drawn from outputs (...,size), without gradient."""

    def mode(self, outputs: Tensor) -> Tensor:
        """The actions that are drawn at a temperature near 0."""

    def score(self, outputs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of actions and the entropy, both (...), in nats a dimension."""


@runtime_checkable
class Retracing(ActionHead, Protocol):
    """A head whose actions (...,A) are a smooth function of its outputs and of noise."""

    def retrace(self, outputs: Tensor, act: Tensor) -> Tensor:
        """The actions themselves, with gradients to the outputs at the noise that led to them."""


class View(Protocol):
    """What the policy sees of the world. `looks`: whether at frames.

    Where a moment shows more than its frame, acting in real environments carries what came
    before: `carries` tensors, which like the policy's are (B,n), and zeros where an episode begins.
    """

    looks: bool
    carries: int

    def space(self, world_model: WorldModel) -> Space | Vectors:
        """What there is to see, one of *X."""

    def real(self, world_model: WorldModel, window: Batch) -> Obs:
        """(B,T+1,*X) of real frames."""

    def imagined(self, world_model: WorldModel, state: State) -> Obs:
        """(B,*X) of an imagined moment; the start of a dream is a real one."""

    def initial(self, world_model: WorldModel, batch: int) -> Carry:
        """The carry before the first observation."""

    def watch(self, past: Batch) -> Carry:
        """The carry of a past that leads to past.obs[:, -1]."""

    def observe(self, world_model: WorldModel, obs: Obs, carry: Carry) -> tuple[Obs, Carry]:
        """(B,*X) of real frames (B,*O) after that carry, and the carry after them."""

    def took(self, carry: Carry, act: Tensor) -> Carry:
        """The carry where actions (B,) were taken at the frames observed last."""


@runtime_checkable
class Expecting(View, Protocol):
    """A view that has a picture of tokens that are not drawn yet."""

    def expected(self, world_model: WorldModel, logits: Tensor) -> Tensor:
        """(B,*X), with gradients to the logits (B,K,V) of the tokens."""


class ActorCritic(Protocol):
    """A policy and a critic with memory. The carry is an argument and a result.

    It must be tensors (B,n), and zeros where an episode begins. `frame_values`: numbers in the
    largest activation for one moment.
    """

    value: Target
    frame_values: int

    def initial(self, batch: int) -> Carry:
        """The carry before the first observation."""

    def __call__(self, x: Obs, carry: Carry) -> tuple[Decision, Carry]:
        """Decide at every moment of a stretch (B,T,*X)."""

    def watch(self, x: Obs, seen: Tensor) -> Carry:
        """The carry after a stretch (B,T,*X) of which moments with seen (B,T) count."""


class CriticTargets(Protocol):
    """Which of two critics says what returns are worth; the slow one trails the online one."""

    def judge(self, online: Values, slow: Values) -> tuple[Tensor, Tensor]:
        """Values (B,H+1) for returns and baselines, and those of the slow critic."""

    def losses(
        self, target: Target, logits: Tensor, ret: Tensor, slow: Tensor
    ) -> dict[str, Tensor]:
        """Terms (B,H), to be added, of the online critic's outputs (B,H,size).

        ret (B,H): its returns. slow (B,H): the slow critic's values.
        """


class ReturnScale(Protocol):
    """The unit that advantages are counted in."""

    def __call__(self, advantage: Tensor) -> Tensor:
        """Advantages (...) in that unit; changes no state."""

    def learn(self, ret: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Take in the returns (B,H) of steps with mask (B,H); returns metrics; never waits."""


class PolicyGradient(Protocol):
    """Which way the policy is to move its actions."""

    def watch(self, actor_critic: ActorCritic, state: State, act: Tensor, carry: Carry) -> Kept:
        """What `terms` needs of an imagined moment where actions (B,*A) are about to be taken.

        carry: the policy's, which has seen the moment. Draws nothing, changes no memory, and
        leaves no gradient; never waits for the host.
        """

    def terms(
        self, outputs: Tensor, act: Tensor, *, advantage: Tensor, kept: Kept, scale: ReturnScale
    ) -> tuple[Tensor, Tensor]:
        """What the policy is to enlarge, in units of `scale`, and its entropies; both (B,H).

        Of the head's outputs (B,H,size), actions (B,H,*A) taken, advantages (B,H), and what was
        kept of each moment (B,H,...).
        """


@dataclass(frozen=True)
class Learner:
    """One thing to train: how a batch becomes a loss, and whose parameters it moves.

    prepare: once per update on the whole batch, without gradient. weight: (B,) how much each row
    of the prepared data counts. loss: on rows of the prepared data, a mean over what counts.
    learn: after the optimiser's step, on the joined Loss.learn; returns metrics.
    starts: batches end in a start state of imagination instead of being any window.
    frame_values: numbers in the largest activation of one frame, for slicing on CPUs.
    tokenize: tokens (B,T+1,K) of windows, where learning changes them.
    fit: takes in what the first steps of a run showed, (N,*O), once and before any update.
    """

    name: str
    prepare: Callable[[Batch], Any]
    weight: Callable[[Any], Tensor]
    loss: Callable[[Any], Loss]
    learn: Callable[[Any], dict[str, Tensor]]
    module: nn.Module
    starts: bool
    frame_values: int
    tokenize: Callable[[Batch], Tensor] | None = None
    fit: Callable[[Obs], None] | None = None
