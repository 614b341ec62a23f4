"""Say how strongly a model is steered: one way of saying it per file."""
