"""Sweeps and searches: a YAML file becomes trials, Ray runs them, MLflow records them.

Each room may use one library: `tracking` MLflow, `cluster` Ray, `search` Optuna. `sweeps` ties the first two together
around a source of jobs; a search is another such source. What a trial is and how it resumes is in `crystalframer.runs`.
"""
