"""DART's actor-critic (arXiv 2406.01361): a transformer over a frame's tokens and its own memory.

Axes: B batch, T steps, K tokens a frame, D numbers of a token's vector, W width, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.protocols import Decision, Vectors
from worldmodels.nets.heads import VALUE_TARGETS, Target
from worldmodels.nets.init import init_normal
from worldmodels.nets.transformer import Block

Carry = tuple[Tensor, Tensor]


class TokenTransformer(nn.Module):
    """Sees vectors (B,T,K,D) of tokens. The carry is (memory (B,W), begun (B,1)), both float32.

    At every step [CLS, the K tokens, MEM], with learned positions, all attend to all. What leaves
    at CLS feeds the heads and is the MEM of the next step; gradients flow through it over a whole
    stretch. Where `begun` is 0 an episode begins, and MEM is a learned vector, zero before any
    update.

    DART has published no code: that tokens enter as the tokenizer's vectors, the first MEM, its
    gradient and the linear heads are our choice.

    `mlp`: units of a block's MLP. `value` names one of VALUE_TARGETS; the critic starts at exactly
    zero. Last norm, heads and memory are float32 whatever the autocast.
    """

    def __init__(
        self,
        *,
        space: Vectors,
        outputs: int,
        width: int,
        layers: int,
        heads: int,
        mlp: int,
        value: str,
    ) -> None:
        super().__init__()
        tokens, dim = space.shape
        self.value: Target = VALUE_TARGETS[value]
        self.enter = nn.Linear(dim, width)
        self.cls = nn.Embedding(1, width)
        self.position = nn.Embedding(tokens + 2, width)
        self.first = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.actor = nn.Linear(width, outputs)
        self.critic = nn.Linear(width, self.value.size)
        self.apply(init_normal)
        # torch's start, so that the numbers of a vector keep about their size.
        self.enter.reset_parameters()
        nn.init.zeros_(self.critic.weight)
        # A step's queries, keys and values, its MLP or its attention.
        self.frame_values = (tokens + 2) * max(3 * width, mlp, heads * (tokens + 2))

    def initial(self, batch: int) -> Carry:
        """The carry before the first frame: nothing has begun."""
        weight = self.actor.weight
        return weight.new_zeros(batch, weight.shape[1]), weight.new_zeros(batch, 1)

    def forward(self, x: Tensor, carry: Carry) -> tuple[Decision, Carry]:
        """Decide at every frame of a stretch (B,T,K,D)."""
        hidden = []
        for tokens in self._entered(x):
            carry = self._step(tokens, carry)
            hidden.append(carry[0])
        feats = torch.stack(hidden, 1)
        with torch.autocast(feats.device.type, enabled=False):
            return Decision(self.actor(feats), self.critic(feats)), carry

    def watch(self, x: Tensor, seen: Tensor) -> Carry:
        """The carry after a stretch (B,T,K,D) of which only frames with seen (B,T) count."""
        carry = self.initial(len(x))
        for t, tokens in enumerate(self._entered(x)):
            (memory, begun), real = self._step(tokens, carry), seen[:, t, None]
            carry = torch.where(real, memory, carry[0]), torch.where(real, begun, carry[1])
        return carry

    def _entered(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B,K,W) for each of T steps; float32, as what runs through the blocks is."""
        return self.enter(x).float().unbind(1)

    def _step(self, tokens: Tensor, carry: Carry) -> Carry:
        memory, begun = carry
        memory = torch.where(begun > 0, memory, self.first)
        cls = self.cls.weight.expand(len(tokens), 1, -1)
        x = torch.cat((cls, tokens, memory[:, None]), 1) + self.position.weight
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.norm(x[:, 0].float()), torch.ones_like(begun)
