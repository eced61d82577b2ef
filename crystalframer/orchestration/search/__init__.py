"""Hyperparameter search: the only room that imports Optuna."""
