"""Read the forms in which others keep conversations, one module each, and tell them apart."""
