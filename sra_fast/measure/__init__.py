"""Ask a model for the attention masses of its responses, and read them back."""
