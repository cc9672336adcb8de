"""Tokenizers by the name that `agent.tokenizer.kind` selects."""

from worldmodels.tokenizers.delta_vq import DeltaVQ
from worldmodels.tokenizers.frame_vq import FrameVQ
from worldmodels.tokenizers.patch_nn import PatchNN

TOKENIZERS = {"delta_vq": DeltaVQ, "frame_vq": FrameVQ, "patch_nn": PatchNN}
