"""A tokenizer and dynamics over its tokens: what imagines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from envs.spaces import Obs
from worldmodels.batch import Batch, at, stretch
from worldmodels.protocols import (
    Dynamics,
    Foreseeing,
    Loss,
    Outlook,
    Prediction,
    Prev,
    State,
    Tokenizer,
)


class WorldModel(nn.Module):
    """Scores real windows and goes on from them in imagination.

    `draws`: whether imagined moments have frames, for the dynamics or the policy to look at.
    `context`: the most steps of a real past that imagination remembers; None for all.
    """

    def __init__(
        self, *, tokenizer: Tokenizer, dynamics: Dynamics, draws: bool, context: int | None = None
    ) -> None:
        super().__init__()
        self.tokenizer, self.dynamics = tokenizer, dynamics
        self.draws, self.context = draws, context

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
        tokens = self.tokenize(batch)
        obs = at(batch.obs, -1) if self.draws else None
        return State(self.dynamics.start(batch, tokens), obs, tokens[:, -1])

    @torch.no_grad()
    def imagine(
        self, state: State, act: Tensor, tokens: Tensor | None = None
    ) -> tuple[State, Prediction]:
        """Act (B,) once; sample the next tokens, or follow the given ones (B,K).

        A sampled end does not stop anything; whoever learns from it masks what follows.
        """
        memory, prediction = self.dynamics.step(state.memory, act, tokens, self.tokenizer.known())
        obs = None if state.obs is None else self.draw(state.obs, act, prediction.tokens)
        memory = self.dynamics.see(memory, obs, prediction.tokens)
        return State(memory, obs, prediction.tokens), prediction

    def outlook(self, state: State, act: Tensor) -> Outlook:
        """What acting (B,*A) once is expected to lead to, with gradients to continuous actions.

        Changes no memory. Dynamics must be `Foreseeing`.
        """
        assert isinstance(self.dynamics, Foreseeing), "tokens of a step depend on each other"
        return self.dynamics.outlook(state.memory, act, self.tokenizer.known())

    def expected(self, logits: Tensor) -> Tensor:
        """The mean (...,K,dim) float32 of the vectors of tokens that logits (...,K,V) draw.

        Gradients reach the logits, not the tokenizer.
        """
        with torch.autocast(logits.device.type, enabled=False):
            probs = logits.float().softmax(-1)
            return torch.einsum("...kv,vkd->...kd", probs, self._vectors(logits.device))

    @torch.no_grad()
    def _vectors(self, device: torch.device) -> Tensor:
        """(V,K,dim): what each token stands for in each place; anything where it may not be."""
        tokens = torch.arange(self.tokenizer.vocab, device=device)[:, None]
        tokens = tokens.expand(-1, self.tokenizer.tokens)
        known = self.tokenizer.known()
        if known is not None:
            tokens = tokens.where(known.T, known.byte().argmax(-1))
        return self.tokenizer.embed(tokens)

    @torch.no_grad()
    def moments(self, batch: Batch) -> Tensor:
        """Features (B,T+1,D) float32 of a window's moments, each of its past and its own tokens."""
        return self.dynamics.moments(batch, self.tokenize(batch))

    @torch.no_grad()
    def moment(self, state: State) -> Tensor:
        """The same (B,D) of an imagined moment; the start of a dream is a real one."""
        return self.dynamics.moment(state.memory)

    @torch.no_grad()
    def draw(self, obs: Obs, act: Tensor, tokens: Tensor) -> Obs:
        """The frame (B,*O) of tokens (B,K), after acting (B,) at a frame."""
        prev = Prev(stretch(obs), act[:, None])
        return at(self.tokenizer.decode(prev, tokens[:, None]), 0)
