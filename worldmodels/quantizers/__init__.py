"""Quantizers by the name that `agent.tokenizer.quantizer.kind` selects."""

from worldmodels.quantizers.binary import BSQ, LFQ
from worldmodels.quantizers.fsq import FSQ
from worldmodels.quantizers.simvq import SimVQ
from worldmodels.quantizers.vq_ema import VQEma
from worldmodels.quantizers.vq_euclid import VQEuclid
from worldmodels.quantizers.vq_grad import VQGrad

QUANTIZERS = {
    "bsq": BSQ,
    "fsq": FSQ,
    "lfq": LFQ,
    "simvq": SimVQ,
    "vq_ema": VQEma,
    "vq_euclid": VQEuclid,
    "vq_grad": VQGrad,
}
