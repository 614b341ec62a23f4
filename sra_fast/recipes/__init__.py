"""Compute quantities of other papers from masses and profiles, one file each."""
