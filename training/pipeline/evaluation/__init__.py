"""Models under prompt templates: how they adhere to strategies, and what SRA says about it."""
