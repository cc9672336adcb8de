"""Dynamics by the name that `agent.dynamics.kind` selects."""

from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.dynamics.parallel import Parallel

DYNAMICS = {"autoregressive": Autoregressive, "parallel": Parallel}
