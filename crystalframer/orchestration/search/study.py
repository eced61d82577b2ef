"""What Optuna does for a search: suggest what to try next, say what mattered, and show it in optuna-dashboard.

Optuna remembers nothing. Whenever values are wanted, a study is made in memory from the trials that the run
directories record, and `StudyExport` writes the same trials to a database which is never read.

So the values of a trial follow from the file (method, seed, space), from the trial's number, and from the trials
before it as they stand at that moment: objectives of those that are done, errors at the rungs of those that stopped
early, values of those under way. A search with one trial at a time is reproduced to the last bit, however often its
driver is killed. Where trials run side by side it depends on the machines which of them end first, and with it what
is suggested next; so it does where seconds are an objective, and with another version of Optuna.
"""

import contextlib
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.environment import variable
from crystalframer.errors import UserError
from crystalframer.orchestration.search.recorded import SearchTrial
from crystalframer.orchestration.search.search_spec import Search
from crystalframer.orchestration.tracking.addresses import database_address

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

FEWEST = 8
"""Trials below which the forest that fANOVA grows would say nothing."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def suggest(spec: Search, trials: Sequence[SearchTrial], number: int) -> dict[str, Any]:
    """Return values to try.

    Args:
        spec: the search.
        trials: those there are, in the order of their numbers.
        number: the new trial's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = _sampler(spec.method, spec.seed * 100_003 + number)
    study = optuna.create_study(directions=["minimize"] * len(spec.objectives), sampler=sampler)
    study.add_trials(_optuna_trial(spec, trial) for trial in trials)
    return dict(study.ask(_distributions(spec)).params)


def importances(spec: Search, trials: Sequence[SearchTrial], epoch: int) -> dict[str, float]:
    """Return the share of the variance of the errors that each setting explains (fANOVA); empty for too few trials.

    Args:
        spec: what was searched.
        trials: those to compare.
        epoch: whose errors count; trials that did not come there are left out.
    """
    import optuna

    tried = [(trial.values, trial.status.val_maes[epoch]) for trial in trials if epoch in trial.status.val_maes]
    if len(tried) < FEWEST or len({error for _, error in tried}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, distributions = optuna.create_study(direction="minimize"), _distributions(spec)
    for values, error in tried:
        study.add_trial(optuna.trial.create_trial(params=dict(values), distributions=distributions, value=error))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=spec.seed)
    return {
        key: float(share) for key, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


class StudyExport:
    """The trials of a search as a study in a database, for optuna-dashboard.

    Optuna and MLflow cannot share a database: both keep their schema's version in a table ``alembic_version``, and
    Optuna refuses the one it finds.
    """

    def __init__(self, url: str, spec: Search, trials: Sequence[SearchTrial], say: Callable[[str], None]) -> None:
        """Write the study of the search's name anew, with the trials that are over.

        Args:
            url: e.g. ``sqlite:///runs/optuna.db`` or ``postgresql://optuna@HOST/optuna``.
            spec: the search.
            trials: its trials so far.
            say: prints a line.

        Raises:
            UserError: the database cannot be used.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._url, self._spec, self._say = url, spec, say
        self._usable = True
        with _explained(url):
            self._storage = optuna.storages.RDBStorage(database_address(url))
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            with _explained(url):
                if spec.name in optuna.study.get_all_study_names(self._storage):
                    optuna.delete_study(study_name=spec.name, storage=self._storage)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=spec.name, directions=["minimize"] * len(spec.objectives)
                )
                self._study.set_user_attr("objectives", list(spec.objectives))
                self._study.add_trials(_optuna_trial(spec, trial) for trial in trials if trial.over)
            stack.pop_all()

    def add(self, trial: SearchTrial) -> None:
        """Add a trial that ended; where the database fails, the search goes on without it."""
        if not self._usable:
            return
        try:
            with _explained(self._url):
                self._study.add_trial(_optuna_trial(self._spec, trial))
        except UserError as error:
            self._usable = False
            self._say(f"{error}. The search goes on; its next start writes the study anew")

    def close(self) -> None:
        """Leave the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()


def study_url(runs: Path) -> str:
    """Return the database of the studies of a folder of runs, unless ``CRYSTALFRAMER_STUDIES`` names another.

    A damaged ``optuna.db`` is removed, as all that it holds is written anew.
    """
    if named := variable("CRYSTALFRAMER_STUDIES"):
        return named
    path = runs.absolute() / "optuna.db"
    if path.exists() and _is_damaged(path):
        path.unlink()
    return f"sqlite:///{path}"


def _is_damaged(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("SELECT * FROM sqlite_master").fetchall()
            return database.execute("PRAGMA quick_check").fetchone() != ("ok",)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # not where it is locked or cannot be read
        return getattr(error, "sqlite_errorcode", None) in (None, *_DAMAGED)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn a database's error into a sentence."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot use the Optuna database {url}: {reason}; name another with --study-storage, or remove optuna.db, "
            "which is only an export"
        ) from error


def _optuna_trial(spec: Search, trial: SearchTrial) -> "FrozenTrial":
    """Return a trial as Optuna describes it; one that failed tells nothing of its values, one that diverged does."""
    import optuna

    states = optuna.trial.TrialState
    standing = trial.status.standing
    ended = standing == "done" or (standing == "stopped early" and spec.method == "pbt")
    if ended:
        state = states.COMPLETE
    elif standing == "stopped early" or trial.diverged:
        state = states.PRUNED
    else:
        state = states.FAIL if standing == "failed" else states.RUNNING
    rungs = spec.early_stopping.rungs(trial.status.epochs) if spec.early_stopping else ()
    errors = {rung: trial.status.val_maes[rung] for rung in rungs if rung in trial.status.val_maes}
    return optuna.trial.create_trial(
        state=state,
        params=dict(trial.values),
        distributions=_distributions(spec),
        values=trial.objectives(spec) if ended else None,
        intermediate_values=errors if len(spec.objectives) == 1 else {},
        user_attrs={"trial": trial.name, "reason": trial.status.reason},
    )


def _distributions(spec: Search) -> "dict[str, BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, where in spec.space.items():
        if where.kind == "choice":
            found[key] = CategoricalDistribution(where.options)
        elif where.kind == "int":
            found[key] = IntDistribution(int(where.low), int(where.high), step=where.step)
        else:
            found[key] = FloatDistribution(where.low, where.high, log=where.kind == "loguniform")
    return found


def _sampler(method: str, seed: int) -> "BaseSampler":
    """Return what suggests values; `constant_liar` keeps trials that run at the same time apart."""
    import optuna

    if method == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of both options, since Optuna 2
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
