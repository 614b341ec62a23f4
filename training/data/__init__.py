"""Prepare data for training: turn conversations into examples, batches and a split."""
