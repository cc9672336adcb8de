"""A few tokens for a whole vector: perceptrons around a quantizer.

Simulus's second way with vectors (code of 2026: 8 tokens, FSQ), and in spirit the encoder of DCWM
(arXiv 2503.00653), which has no decoder. Axes: B batch, T steps, D numbers, K tokens, d numbers of
a token's vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.nets.heads import symexp, symlog
from worldmodels.nets.running_scale import RunningScale
from worldmodels.protocols import Loss, Quantized, Quantizer
from worldmodels.tokenizers.bins import refuse_nan
from worldmodels.tokenizers.reconstruction import number_errors, shares

# The mean square of SiLU of numbers of spread 1, as LayerNorm gives them.
SILU_SQUARE = 0.36
# Drawn numbers end at e^20 in symlog units: nothing the decoder says is infinite.
END = 20.0


class VectorMlp(nn.Module):
    """Vectors of `size` numbers as `tokens` tokens, each a code of the quantizer, say FSQ.

    Encoder and decoder have `layers` hidden layers of `hidden` units. They work on symlog numbers
    that a running scale, which keeps `decay` of itself in an update, brings to a spread of 1; the
    loss is the squared error in that unit, so that small dimensions count as large ones do.
    All of it is float32 whatever the autocast.
    """

    def __init__(
        self,
        *,
        size: int,
        quantizer: Quantizer,
        tokens: int,
        hidden: int,
        layers: int,
        decay: float,
    ) -> None:
        super().__init__()
        self.tokens, self.vocab, self.dim = tokens, quantizer.size, quantizer.dim
        self.scale = RunningScale(size=size, decay=decay)
        inner = [hidden] * layers
        self.encoder = perceptron([size, *inner, tokens * quantizer.dim])
        self.decoder = perceptron([tokens * quantizer.dim, *inner, size])
        # Vectors of spread 1: of torch's third of that, FSQ rounds most to the same few codes.
        last = self.encoder[-1]
        assert isinstance(last, nn.Linear)
        square = SILU_SQUARE if layers else 1.0
        nn.init.normal_(last.weight, std=(square * last.in_features) ** -0.5)
        self.quantizer = quantizer

    def fit(self, x: Tensor) -> None:
        """Scale by warm-up data (N,D) from the start. Raises ValueError if it is not finite."""
        if not x.isfinite().all():
            raise ValueError("numbers must be finite")
        self.scale.fit(symlog(x.float()))

    def encode(self, x: Tensor) -> Tensor:
        """Tokens (...,K) of vectors (...,D)."""
        return self._quantized(self._scaled(x))[1].codes

    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors (...,D) float32 of tokens (...,K)."""
        return self._drawn(self._decoded(self.quantizer.embed(tokens)))

    def embed(self, tokens: Tensor) -> Tensor:
        """The quantizer's vectors (...,d) of tokens (...)."""
        return self.quantizer.embed(tokens)

    def known(self) -> None:
        """All tokens stand for something."""

    def loss(self, x: Tensor, counted: Tensor) -> Loss:
        """Squared error and the quantizer's loss, means over vectors (B,T,D) with counted (B,T).

        scaled_l2 is what is learned from; l1, l2 and worst are in the units of the environment.
        """
        real = self._scaled(x)
        z, quantized = self._quantized(real)
        guess = self._decoded(quantized.z)
        weight = shares(counted).view(counted.shape)
        scaled = ((guess - real).square().mean(-1) * weight).sum()
        own = (quantized.loss.mean(-1) * weight).sum()
        parts = {"scaled_l2": scaled}
        parts |= number_errors(x.float() - self._drawn(guess.detach()), counted)
        parts |= {name: (part.mean(-1) * weight).sum() for name, part in quantized.parts.items()}
        return Loss(scaled + own, parts, (x, z.detach(), quantized.codes, counted))

    @torch.no_grad()
    def learn(self, seen: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Scale and codebook from (x (B,T,D), vectors (B,T,K,d), codes (B,T,K), counted (B,T))."""
        x, z, codes, counted = seen
        self.scale.update(symlog(x.float()).flatten(0, 1), counted.flatten())
        return self.quantizer.update(z, codes, counted[..., None].expand_as(codes).float())

    def _scaled(self, x: Tensor) -> Tensor:
        refuse_nan(x)
        return self.scale(symlog(x.float()))

    def _quantized(self, real: Tensor) -> tuple[Tensor, Quantized]:
        """Vectors (...,K,d) of scaled numbers (...,D), and what becomes of them."""
        with torch.autocast(real.device.type, enabled=False):
            z = self.encoder(real).unflatten(-1, (self.tokens, self.dim))
            return z, self.quantizer(z)

    def _decoded(self, vectors: Tensor) -> Tensor:
        """Scaled numbers (...,D) of vectors (...,K,d)."""
        with torch.autocast(vectors.device.type, enabled=False):
            guess: Tensor = self.decoder(vectors.flatten(-2))
            return guess

    def _drawn(self, guess: Tensor) -> Tensor:
        """Numbers of the environment of scaled ones."""
        return symexp(self.scale.inverse(guess).clamp(-END, END))


def perceptron(widths: list[int]) -> nn.Sequential:
    """Linear, LayerNorm, SiLU for each hidden width, and a linear layer; torch's own start."""
    layers: list[nn.Module] = []
    for before, width in zip(widths, widths[1:-1], strict=False):
        layers += [nn.Linear(before, width), nn.LayerNorm(width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
