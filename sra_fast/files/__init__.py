"""Runs over files that can be killed at any moment and continued."""
