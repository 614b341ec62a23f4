"""From a conversation to marked tokens, without a model."""
