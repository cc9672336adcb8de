"""What dynamics share that are one transformer over an episode as a sequence of embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from envs.spaces import Obs
from worldmodels.batch import Batch
from worldmodels.dynamics.scores import Weights, head
from worldmodels.dynamics.sequence import Memory, begin, moment, moments, see
from worldmodels.nets.heads import REWARD_TARGETS
from worldmodels.nets.init import INITS
from worldmodels.nets.transformer import Transformer
from worldmodels.protocols import Layout


class OneTransformer(nn.Module):
    """The transformer, its heads and its memory; how tokens are scored and sampled is to be added.

    `blocks` is the longest context in steps; where it is used up, imagination goes on from the
    present frame alone. `dropout` is for `loss` only. `reward` names one of REWARD_TARGETS.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        width: int,
        layers: int,
        heads: int,
        blocks: int,
        dropout: float,
        reward: str,
        token_weight: float,
        reward_weight: float,
        end_weight: float,
        init: str,
    ) -> None:
        super().__init__()
        self._init = INITS[init]
        self.layout, self.reward, self.width = layout, REWARD_TARGETS[reward], width
        self.weights = Weights(token_weight, reward_weight, end_weight)
        capacity = layout.stride * blocks
        self.net = Transformer(
            dim=width, layers=layers, heads=heads, capacity=capacity, dropout=dropout
        )

    def add_heads(self, vocab: int) -> None:
        """Build the heads, and draw all weights anew: the last step of a constructor."""
        self.token_head = head(self.width, vocab)
        self.reward_head = head(self.width, self.reward.size)
        self.end_head = head(self.width, 2)
        self.apply(self._init)

    def start(self, batch: Batch, tokens: Tensor) -> Memory:
        """Read a real past in one pass; the memory stands at obs[:, -1]."""
        return begin(self.net, self.layout, batch, tokens)

    def see(self, memory: Memory, obs: Obs | None, tokens: Tensor) -> Memory:
        """Queue the frame for the next pass, and make it the place to restart from."""
        return see(self.layout, memory, obs, tokens)

    def moments(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Features (B,T+1,D) float32 of a window's moments, in one pass."""
        return moments(self.net, self.layout, batch, tokens)

    def moment(self, memory: Memory) -> Tensor:
        """The same (B,D) of an imagined moment; one pass over what is pending."""
        return moment(self.net, self.layout, memory)
