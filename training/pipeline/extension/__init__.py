"""Extend ESConv: cut its dialogues, and generate replies under strategies drawn at random."""
