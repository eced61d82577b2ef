"""Other methods' predictions for the same test crystals, read from tables, and how ours compare with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import Comparison, in_order
from analysis.material_errors import MaterialErrors, rows_with_errors
from analysis.pairs import difference
from analysis.results import Results
from analysis.uncertainty import Difference, holm
from crystalframer.data.structures.records import ARCHIVE_DAMAGE
from crystalframer.errors import UserError, require_damage

FEWEST = 30
"""Crystals that a group needs to be shown."""
SHOWN_ELEMENTS = 6
"""Elements that are shown: those where two methods differ most."""
TREES = "trees on composition"
"""What boosted trees on the composition are called, fitted to the crystals that all trials learned from."""


@dataclass(frozen=True, eq=False)
class Peer:
    """Another method."""

    name: str
    predictions: pd.Series
    """By id."""
    targets: pd.Series | None
    """By id, where the table has them."""

    def errors(self, ours: MaterialErrors) -> MaterialErrors:
        """Return its errors on our test materials that it predicts, with our targets.

        Raises:
            UserError: it predicts none of them, or its targets are others.
        """
        ids = [id for id in ours.ids if id in self.predictions.index]
        if not ids:
            raise UserError(
                f"peer {self.name!r} predicts none of the {len(ours.ids)} test crystals, such as {ours.ids[0]!r}: "
                "give predictions of the same test set, by the same ids"
            )
        common = ours.among(set(ids))
        if self.targets is not None:
            apart = float(np.abs(self.targets.loc[ids].to_numpy(dtype=float) - common.target).max())
            if apart > 0.01 * max(1.0, float(np.abs(common.target).max())):
                raise UserError(
                    f"peer {self.name!r} has targets that differ from ours by up to {apart:.3g}: they are of another "
                    "property or in another unit"
                )
        return MaterialErrors(common.ids, common.target, self.predictions.loc[ids].to_numpy(dtype=float)[:, None])


def trees_name(crystals: int) -> str:
    """Return what boosted trees are called where trials learned from different numbers of crystals."""
    return f"{TREES}, {crystals:,} training crystals"


@dataclass(frozen=True, eq=False)
class Method:
    """A row of ours: the seeds' mean error, or the error of their mean prediction."""

    label: str
    errors: MaterialErrors


@dataclass(frozen=True)
class Against:
    """One of our rows against a peer."""

    ours: Method
    peer: str
    peer_mae: float
    """On the materials of both."""
    our_mae: float
    found: Difference
    corrected: float
    """Holm's p-value over all rows and peers."""


@dataclass(frozen=True, eq=False)
class Group:
    """A part of the test crystals, and how two methods differ there."""

    name: str
    differences: NDArray[np.float64]
    """(n,) absolute errors of the one less those of the other, by id."""


def read_peer(text: str) -> Peer:
    """Read ``FILE`` or ``NAME=FILE``: a CSV, zipped CSV or Parquet table with the columns id, prediction (and target).

    Without a name a method is called as its file, or, where the file is a leaderboard's (``AI-…``), as its folder.

    Raises:
        UserError: there is no such file, or no such table in it.
    """
    named, _, place = text.rpartition("=")
    path = Path(place)
    stem = path.name.split(".")[0]
    name = named or (path.absolute().parent.name if stem.startswith("AI-") else stem)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"id": str})
    except (*ARCHIVE_DAMAGE, ValueError) as error:
        require_damage(path, error)
        raise UserError(f"--peers {text}: {path} cannot be read as a table ({error})") from error
    table.columns = [str(column).strip().lower() for column in table.columns]
    if not {"id", "prediction"} <= set(table.columns):
        raise UserError(f"--peers {text}: got the columns {', '.join(table.columns)}, expected id and prediction")
    table = table.assign(id=table["id"].astype(str)).drop_duplicates("id").set_index("id")
    numbers = table.apply(pd.to_numeric, errors="coerce").dropna(subset=["prediction"])
    return Peer(name, numbers["prediction"], numbers.get("target"))


def recorded_peers(results: Results) -> list[Peer]:
    """Return the peers that results bring along."""
    named = sorted(results.peers.items(), key=lambda peer: in_order(peer[0]))
    return [Peer(name, predictions, None) for name, predictions in named]


def methods_of(comparison: Comparison) -> list[Method]:
    """Return our finished rows, and below each with several seeds their ensemble."""
    found = []
    for row, errors in rows_with_errors(comparison).items():
        found.append(Method(row.label, errors))
        if len(row.trials) > 1:
            found.append(Method(f"{row.label}, ensemble of {len(row.trials)} seeds", errors.ensemble))
    return found


def against(methods: Sequence[Method], peers: Sequence[Peer]) -> list[Against]:
    """Compare each of our methods with each peer on the materials of both; p-values are corrected for all of them."""
    compared = []
    for method in methods:
        for peer in peers:
            theirs = peer.errors(method.errors)
            ours = method.errors.among(set(theirs.ids))
            found = difference(ours, theirs)
            assert found is not None, "a peer without common materials is an error"
            compared.append((method, peer.name, float(theirs.absolute.mean()), float(ours.absolute.mean()), found))
    corrected = holm([found.p_bootstrap for *_, found in compared])
    return [Against(*each, p) for each, p in zip(compared, corrected, strict=True)]


def groups(ours: MaterialErrors, theirs: MaterialErrors, formulas: Mapping[str, str], *, gap: bool) -> list[Group]:
    """Return where two methods differ: by the size of the target, for gaps metals and insulators, and by element.

    Args:
        ours: of one method.
        theirs: of the other one.
        formulas: by id, such as ``Mg1 O1``; elements are left out without them.
        gap: whether the target is a band gap, zero for a metal.
    """
    target = dict(zip(ours.ids, ours.target.tolist(), strict=True))
    one, other = (pd.Series(errors.absolute, index=list(errors.ids)) for errors in (ours, theirs))
    differences = (one - other).dropna().sort_index()
    parts = _gap_groups(target) if gap else _thirds(target)
    found = [
        _group(name, differences, [chosen(target[id]) for id in differences.index]) for name, chosen in parts.items()
    ]
    contents = {id: {part.rstrip("0123456789") for part in formulas[id].split()} for id in target if id in formulas}
    by_element = [
        _group(f"with {element}", differences, [element in contents.get(id, ()) for id in differences.index])
        for element in sorted(set().union(*contents.values()))
    ]
    by_element = sorted(filter(_is_enough, by_element), key=lambda group: -abs(float(group.differences.mean())))
    return [*filter(_is_enough, found), *by_element[:SHOWN_ELEMENTS]]


def _gap_groups(target: Mapping[str, float]) -> dict[str, Callable[[float], bool]]:
    middle = float(np.median([value for value in target.values() if value > 0] or [0.0]))
    return {
        "metals (gap 0)": lambda value: value <= 0,
        "insulators": lambda value: value > 0,
        f"gap up to {middle:.2g}": lambda value: 0 < value <= middle,
        f"gap above {middle:.2g}": lambda value: value > middle,
    }


def _thirds(target: Mapping[str, float]) -> dict[str, Callable[[float], bool]]:
    low, high = np.quantile(list(target.values()), [1 / 3, 2 / 3]).tolist()
    return {
        f"target up to {low:.2g}": lambda value: value <= low,
        f"{low:.2g} to {high:.2g}": lambda value: low < value <= high,
        f"above {high:.2g}": lambda value: value > high,
    }


def _group(name: str, differences: "pd.Series[float]", within: list[bool]) -> Group:
    return Group(name, np.asarray(differences[within], dtype=np.float64))


def _is_enough(group: Group) -> bool:
    return len(group.differences) >= FEWEST
