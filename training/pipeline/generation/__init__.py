"""Replies of a chat model to prompts with a strategy, by transformers or over an endpoint."""
