"""Watch SRA in every step of a training, and train towards more of it."""
