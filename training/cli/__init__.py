"""The commands for training and for the paper's pipeline, which ``sra-fast`` looks up by name."""
