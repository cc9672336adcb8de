"""Actor-critics by the name that `agent.actor_critic.kind` selects."""

from agents.actor_critics.cnn_lstm import CnnLstm

ACTOR_CRITICS = {"cnn_lstm": CnnLstm}
