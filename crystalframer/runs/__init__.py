"""A run: a directory that resumes. Knows neither Ray nor MLflow nor Optuna."""
