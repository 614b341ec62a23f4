"""Evaluate models under prompt templates: adherence to strategies, and what SRA says of it."""
