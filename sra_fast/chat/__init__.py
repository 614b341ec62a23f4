"""Turn conversations into marked tokens, without a model."""
