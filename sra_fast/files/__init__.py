"""Score files in runs that can be killed at any moment and continued later."""
