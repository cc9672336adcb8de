"""Tokenizers by the name that `agent.tokenizer.kind` selects."""

from worldmodels.tokenizers.delta_vq import DeltaVQ

TOKENIZERS = {"delta_vq": DeltaVQ}
