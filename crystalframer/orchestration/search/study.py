"""The Optuna study of a search: what was tried, and what to try next.

The run directories are the truth and the study follows them: a trial is told to it after its directory says how it
ended. Optuna and MLflow cannot share a database (both keep their schema's version in a table ``alembic_version``, and
Optuna refuses the one it finds), so the study is in ``runs/optuna.db`` beside ``runs/mlflow.db``, or in a database of
its own on a server.

What is tried next depends on the search's seed and on what the study holds, not on the process that asks.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.errors import UserError
from crystalframer.orchestration.search.search_spec import Objective, Range, Search
from crystalframer.orchestration.tracking.database_url import database_address

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

_NAME = "trial"
"""Attribute that holds a trial's name; written last, so that its presence means that the settings are complete."""


@dataclass(frozen=True)
class Asked:
    """A trial of the study."""

    number: int
    """Optuna's."""
    values: Mapping[str, Any]
    """Of the searched settings, by dotted key."""
    name: str
    """The run directory's, "" if the driver died before it had one."""
    running: bool
    """Whether the study does not know yet how it ended."""


class Study:
    """A study of the search's name, found or created."""

    def __init__(self, url: str, spec: Search) -> None:
        """Open the study in a database, e.g. ``sqlite:///runs/optuna.db`` or ``postgresql://optuna@HOST/optuna``.

        Raises:
            UserError: the database cannot be used, or it holds a study of this name with other objectives.
        """
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._distributions = {key: distribution(where) for key, where in spec.space.items()}
        try:
            self._storage = optuna.storages.RDBStorage(database_address(url))
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=spec.name,
                directions=["minimize"] * len(spec.objectives),
                load_if_exists=True,
            )
        except (SQLAlchemyError, RuntimeError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"cannot use the Optuna database {url}: {reason}; name another with --study-storage"
            ) from error
        if len(self._study.directions) != len(spec.objectives):
            raise UserError(
                f"the study {spec.name!r} has {len(self._study.directions)} objectives, the file has "
                f"{len(spec.objectives)}; rename the file, or put the study elsewhere with --study-storage"
            )
        self._study.set_user_attr("objectives", list(spec.objectives))

    def close(self) -> None:
        """Leave the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def optuna(self) -> "optuna.Study":
        """Optuna's own object."""
        return self._study

    def trials(self) -> list[Asked]:
        """Return the trials in order."""
        return [self._asked(trial) for trial in self._study.get_trials(deepcopy=False)]

    def ask(self) -> Asked:
        """Ask for values to try; nobody knows of the trial until it is named."""
        number = len(self._study.get_trials(deepcopy=False))
        seed = self._spec.seed * 100_003 + number
        self._study.sampler = _sampler(self._spec.method, seed)
        trial = self._study.ask(self._distributions)
        return Asked(trial.number, dict(trial.params), "", running=True)

    def name(self, number: int, name: str) -> None:
        """Name a trial, which makes it one to run."""
        self._trial(number).set_user_attr(_NAME, name)

    def note(self, number: int, key: str, value: Any) -> None:
        """Keep a remark with a trial."""
        self._trial(number).set_user_attr(key, value)

    def report(self, number: int, epoch: int, error: float) -> None:
        """Tell an error on the way, where there is one objective; Optuna has no place for it where there are more."""
        trial = self._trial(number)
        if len(self._spec.objectives) == 1 and epoch not in trial.storage_values():
            trial.report(error, epoch)

    def complete(self, number: int, values: Sequence[float]) -> None:
        """Tell that a trial is done."""
        self._study.tell(number, list(values))

    def prune(self, number: int) -> None:
        """Tell that a trial ended early: because it was worse than others, or because it diverged."""
        import optuna

        self._study.tell(number, state=optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Tell that a trial says nothing about its values."""
        import optuna

        self.note(number, "reason", reason)
        self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def add_finished(self, name: str, values: Mapping[str, Any], error: float, remarks: Mapping[str, Any]) -> None:
        """Add a trial that was chosen and run without asking, unless the study holds it."""
        import optuna

        if any(trial.user_attrs.get(_NAME) == name for trial in self._study.get_trials(deepcopy=False)):
            return
        self._study.add_trial(
            optuna.trial.create_trial(
                params=dict(values),
                distributions=self._distributions,
                values=[error],
                user_attrs={**remarks, _NAME: name},
            )
        )

    def _asked(self, trial: "FrozenTrial") -> Asked:
        name = trial.user_attrs.get(_NAME, "")
        return Asked(trial.number, dict(trial.params), name, running=not trial.state.is_finished())

    def _trial(self, number: int) -> "_OpenTrial":
        return _OpenTrial(self._study, number)


def _sampler(method: str, seed: int) -> "BaseSampler":
    """Return what suggests values; `constant_liar` keeps trials that run at the same time apart."""
    import optuna

    if method == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of both options, since Optuna 2
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


class _OpenTrial:
    """Optuna's trial by its number, whoever asked for it."""

    def __init__(self, study: "optuna.Study", number: int) -> None:
        import optuna

        self._frozen = study.get_trials(deepcopy=False)[number]
        self._trial = optuna.trial.Trial(study, self._frozen._trial_id)

    def storage_values(self) -> Mapping[int, float]:
        return self._frozen.intermediate_values

    def set_user_attr(self, key: str, value: Any) -> None:
        self._trial.set_user_attr(key, value)

    def report(self, error: float, epoch: int) -> None:
        self._trial.report(error, epoch)


def distribution(where: Range) -> "BaseDistribution":
    """Return a range as Optuna describes it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if where.kind == "choice":
        return CategoricalDistribution(where.options)
    if where.kind == "int":
        return IntDistribution(int(where.low), int(where.high), step=where.step)
    return FloatDistribution(where.low, where.high, log=where.kind == "loguniform")


def importances(spec: Search, tried: Sequence[tuple[Mapping[str, Any], float]], fewest: int = 8) -> dict[str, float]:
    """Return the share of the variance of the errors that each setting explains (fANOVA); empty for too few trials.

    Args:
        spec: what was searched.
        tried: values of the searched settings, with an error that is comparable between all of them.
        fewest: below so many trials the forest that fANOVA grows would say nothing.
    """
    import optuna

    if len(tried) < fewest or len({error for _, error in tried}) < 2:
        return {}
    study = optuna.create_study(direction="minimize")
    distributions = {key: distribution(where) for key, where in spec.space.items()}
    for values, error in tried:
        study.add_trial(optuna.trial.create_trial(params=dict(values), distributions=distributions, value=error))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=spec.seed)
    return {
        key: float(share) for key, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def study_url(runs: Path) -> str:
    """Return the database of the studies of a folder of runs, unless ``CRYSTALFRAMER_STUDIES`` names another."""
    return os.environ.get("CRYSTALFRAMER_STUDIES") or f"sqlite:///{(runs / 'optuna.db').absolute()}"


def objective_values(
    objectives: Sequence[Objective], val_mae: float, seconds: float, num_parameters: float
) -> list[float]:
    """Return what a finished trial comes to in each objective."""
    measured = {"val_mae": val_mae, "seconds_per_epoch": seconds, "num_parameters": num_parameters}
    return [float(measured[objective]) for objective in objectives]
