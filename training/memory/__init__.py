"""Save memory in training: sliced MLPs, and logits of replies alone."""
