"""Dynamics by the name that `agent.dynamics.kind` selects."""

from worldmodels.dynamics.autoregressive import Autoregressive

DYNAMICS = {"autoregressive": Autoregressive}
