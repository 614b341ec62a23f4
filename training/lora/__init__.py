"""A LoRA run: from settings and conversations to an adapter and its curves."""
