"""The commands of the paper's pipeline, which the command line names in its table."""
