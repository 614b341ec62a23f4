"""Ask a model for attention masses and read them back."""
