"""SRA in training: watch it in every step, and train towards it."""
