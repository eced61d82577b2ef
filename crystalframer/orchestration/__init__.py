"""Sweeps: a YAML file becomes trials, Ray Tune runs them, MLflow records them.

spec.py           sweeps/*.yaml → SweepSpec → named trials, strictly checked
run_directory.py  runs/<sweep>/<trial>/: what makes a trial resumable, and safe from its own past attempts
trial.py          one trial from start (or checkpoint) to its `done` marker
tracking.py       the five verbs of an experiment tracker, with an in-memory and a no-op twin
mlflow_store.py   the MLflow implementation, and what a sweep asks of MLflow
mlflow_server.py  a local tracking server that lives as long as the sweep
tune.py           Ray Tune: where and when trials run, and what becomes of those that fail
screen.py         what the user sees meanwhile
sweep.py          all of it in order
"""
