"""Collect human judgements of two systems on blinded sheets, and compare them with SRA."""
