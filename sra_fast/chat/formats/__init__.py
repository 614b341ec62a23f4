"""The forms in which others keep conversations, one module each, and how a form is recognised."""
