"""A tokenizer and dynamics over its tokens: what imagines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.batch import Batch
from worldmodels.protocols import Dynamics, Loss, Prediction, Prev, State, Tokenizer


class WorldModel(nn.Module):
    """Scores real windows and goes on from them in imagination.

    `context`: the most steps of a real past that imagination remembers; None for all.
    """

    def __init__(
        self, *, tokenizer: Tokenizer, dynamics: Dynamics, context: int | None = None
    ) -> None:
        super().__init__()
        self.tokenizer, self.dynamics, self.context = tokenizer, dynamics, context

    @torch.no_grad()
    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of a window, without gradient."""
        return self.tokenizer.tokenize(batch)

    def loss(self, batch: Batch) -> Loss:
        """The dynamics' loss on the tokens of a window; the tokenizer gets no gradient."""
        return self.dynamics.loss(batch, self.tokenize(batch))

    @torch.no_grad()
    def start(self, batch: Batch) -> State:
        """The moment at obs[:, -1], with the window before it in memory."""
        if self.context is not None:
            batch = batch.last(self.context)
        return State(self.dynamics.start(batch, self.tokenize(batch)), batch.obs[:, -1])

    @torch.no_grad()
    def imagine(
        self, state: State, act: Tensor, tokens: Tensor | None = None
    ) -> tuple[State, Prediction]:
        """Act (B,) once; sample the next tokens, or follow the given ones (B,K).

        A sampled end does not stop anything; whoever learns from it masks what follows.
        """
        memory, prediction = self.dynamics.step(state.memory, act, tokens)
        prev = Prev(state.obs[:, None], act[:, None])
        obs = self.tokenizer.decode(prev, prediction.tokens[:, None])[:, 0]
        memory = self.dynamics.see(memory, obs, prediction.tokens)
        return State(memory, obs), prediction
