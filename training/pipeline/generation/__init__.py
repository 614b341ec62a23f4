"""Generate replies to prompts with a strategy, by a local model or over an endpoint."""
