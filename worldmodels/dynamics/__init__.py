"""Dynamics by the name that `agent.dynamics.kind` selects."""

from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.factorised import Factorised
from worldmodels.dynamics.parallel import Parallel

DYNAMICS = {
    "autoregressive": Autoregressive,
    "diffusion": Diffusion,
    "factorised": Factorised,
    "parallel": Parallel,
}
