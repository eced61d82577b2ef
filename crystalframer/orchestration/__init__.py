"""Sweeps: a YAML file becomes trials, Ray Tune runs them, MLflow records them.

spec.py             sweeps/*.yaml → SweepSpec → named trials, strictly checked (yaml_reading.py)
run_directory.py    runs/<sweep>/<trial>/: what makes a trial resumable, and safe from its own past attempts
trial.py            one trial from start (or checkpoint) to its `done` marker
worker.py           the process that runs trials, one after another
tracking.py         the five verbs of an experiment tracker, with an in-memory and a no-op twin
mlflow_store.py     the MLflow implementation, and what a sweep asks of MLflow
patient_tracker.py  bears with a tracking server that is away
mlflow_server.py    a local tracking server that lives as long as the sweep
databases.py        addresses of databases on a server
jobs.py             what the driver hands to a worker, and where it gets it from
dispatch.py         which job starts next, which trial ends early, what becomes of failures (failures.py)
gpu_share.py        how many trials share a GPU
tune.py             Ray Tune: where and when jobs run
screen.py           what the user sees meanwhile
accounts.py         hours and money; the driver's sign of life
fates.py            what became of every trial, read from the sweep's folder
arguments.py        the command line of sweeps and searches
driver.py           all of it around a source of jobs
sweep.py            a sweep from its file to its results
search_spec.py, study.py, early_stopping.py, search.py, population.py
                    hyperparameter search: its file, Optuna, ASHA, the driver's source of jobs, PBT
"""
