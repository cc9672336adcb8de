"""Tokenizers by the name that `agent.tokenizer.kind` selects for pictures, `agent.vectors.kind`
for numbers.
"""

from worldmodels.tokenizers.bins import Bins
from worldmodels.tokenizers.delta_vq import DeltaVQ
from worldmodels.tokenizers.frame_vq import FrameVQ
from worldmodels.tokenizers.patch_nn import PatchNN
from worldmodels.tokenizers.vector_mlp import VectorMlp

TOKENIZERS = {"delta_vq": DeltaVQ, "frame_vq": FrameVQ, "patch_nn": PatchNN}
VECTORS = {"bins": Bins, "mlp": VectorMlp}
