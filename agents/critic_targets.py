"""Where a critic's targets come from, and what it learns. Axes: B rollouts, H steps."""

from __future__ import annotations

from torch import Tensor

from agents.protocols import Values
from worldmodels.nets.heads import Target


class TargetNetwork:
    """The slow critic judges: returns, bootstrap and baseline are its values.

    As in Delta-IRIS; a network for targets alone is that of Mnih et al. 2015.
    """

    def judge(self, online: Values, slow: Values) -> tuple[Tensor, Tensor]:
        """The slow critic's values (B,H+1), twice."""
        value = slow()
        return value, value

    def losses(
        self, target: Target, logits: Tensor, ret: Tensor, slow: Tensor
    ) -> dict[str, Tensor]:
        """The return's loss."""
        return {"value_loss": target.loss(logits, ret)}


class SelfRegularised:
    """The critic judges itself, and is held back by the slow one's values.

    Returns, bootstrap and baseline are the online critic's values; its loss has the slow critic's
    value as a second target, `weight` times (DreamerV3: Hafner et al., arXiv 2301.04104, critic
    learning; weight 1 and a target decay of 0.98 there).
    """

    def __init__(self, *, weight: float) -> None:
        self.weight = weight

    def judge(self, online: Values, slow: Values) -> tuple[Tensor, Tensor]:
        """The online critic's values (B,H+1), and the slow one's."""
        return online(), slow()

    def losses(
        self, target: Target, logits: Tensor, ret: Tensor, slow: Tensor
    ) -> dict[str, Tensor]:
        """The return's loss, and `weight` times that of the slow critic's value."""
        return {
            "value_loss": target.loss(logits, ret),
            "slow_value_loss": self.weight * target.loss(logits, slow),
        }


CRITIC_TARGETS = {"target_network": TargetNetwork, "self_regularised": SelfRegularised}
