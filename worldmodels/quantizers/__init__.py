"""Quantizers by the name that `agent.tokenizer.quantizer.kind` selects."""

from worldmodels.quantizers.vq_ema import VQEma

QUANTIZERS = {"vq_ema": VQEma}
