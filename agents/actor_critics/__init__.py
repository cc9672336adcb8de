"""Actor-critics by the name that `agent.actor_critic.kind` selects."""

from collections.abc import Callable

from agents.actor_critics.cnn_lstm import cnn_lstm
from agents.actor_critics.mlp import Mlp
from agents.actor_critics.pool_lstm import pool_lstm
from agents.actor_critics.token_transformer import TokenTransformer
from agents.protocols import ActorCritic

ACTOR_CRITICS: dict[str, Callable[..., ActorCritic]] = {
    "cnn_lstm": cnn_lstm,
    "mlp": Mlp,
    "pool_lstm": pool_lstm,
    "token_transformer": TokenTransformer,
}
