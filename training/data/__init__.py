"""Data for training: conversations to examples, batches and a split."""
