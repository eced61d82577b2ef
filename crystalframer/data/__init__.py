"""Crystals, data sets, tasks and splits; how a trial gets what it learns from."""
