"""Save memory in training with sliced MLPs and with logits of replies alone."""
