"""Figures: a script each."""
