"""The lists of models by name: ``models.json`` beside this file, and one in the folder of prepared data.

A list maps names to entries: what the model predicts, what it learned from, how good it is, and where its packed file
is: beside the list, or at an address. Either way the file's SHA-256 is in the entry and is compared before it is read.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from crystalframer.atomic_files import replace_text, sha256_of
from crystalframer.environment import data_folder
from crystalframer.errors import UserError, near_matches
from crystalframer.validation import STRICT

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
"""What a model may be called."""
LIST = "models.json"
"""Name of a list."""
PACKAGE = Path(__file__).parent
"""Folder of the list that comes with the package."""


@dataclass(frozen=True)
class ListedTarget:
    """A property that a model predicts, and how well, on its test crystals."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    property: str
    unit: str
    mae: float
    """Mean absolute error."""
    mae_low: float
    """Ends of its 95 % bootstrap interval over crystals."""
    mae_high: float
    coverage: float
    """Share of the test crystals whose value lies within the 90 % interval."""


@dataclass(frozen=True)
class Listed:
    """The entry of a model."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    targets: list[ListedTarget]
    data: str
    """What it learned from, in words."""
    licence: str
    """Terms of use of that."""
    frame: str
    members: int
    """Trainings with different seeds whose mean it predicts."""
    crystals: list[int]
    """Training, validation and test crystals."""
    minutes: float
    """Minutes of training, of all members together, by the median epoch."""
    bytes: int
    """Size of the packed file."""
    sha256: str
    """Of the packed file."""
    file: str = ""
    """Its name beside the list, or empty."""
    url: str = ""
    """Its address, or empty."""

    @property
    def weight(self) -> str:
        """The size in words."""
        return f"{self.bytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class _List:
    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    models: dict[str, Listed]


_ADAPTER = pydantic.TypeAdapter(_List)


def own_folder() -> Path:
    """Return the folder of the models that were packed on this machine, and of those that were fetched."""
    return data_folder() / "models"


def listed_models() -> dict[str, tuple[Listed, Path]]:
    """Return each model's entry and the folder of its list, by name; a model of one's own hides the package's.

    Raises:
        UserError: a list is damaged.
    """
    return {name: (entry, folder) for folder in (PACKAGE, own_folder()) for name, entry in read_list(folder).items()}


def read_list(folder: Path) -> dict[str, Listed]:
    """Return the entries of a folder's list, none where there is no list.

    Raises:
        UserError: it is damaged.
    """
    path = folder / LIST
    if not path.is_file():
        return {}
    try:
        return _ADAPTER.validate_json(path.read_bytes()).models
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"the list of models {path} is damaged ({place}: {first['msg']}); mend it or move it away"
        ) from error


def add_to_list(folder: Path, name: str, entry: Listed) -> None:
    """Enter a model into a folder's list, in the place of one of the same name."""
    entries: Mapping[str, Any] = {known: dataclasses.asdict(model) for known, model in read_list(folder).items()}
    entries = dict(sorted({**entries, name: dataclasses.asdict(entry)}.items()))
    replace_text(folder / LIST, json.dumps({"models": entries}, indent=1, ensure_ascii=False) + "\n")


def find_model(name: str) -> Path:
    """Return the packed file of a model by its name, fetched where it is not there yet.

    Raises:
        UserError: no model has this name (near matches are listed), the file is missing, cannot be fetched, or is not
            the one that was listed.
    """
    models = listed_models()
    if name not in models:
        hint = near_matches(name, models) if models else ""
        raise UserError(
            f"there is no model {name!r}{hint}; give a name that `crystalframer models` lists, a file, or the "
            "folder of a training"
        )
    entry, folder = models[name]
    if entry.url:
        from crystalframer.data.preparation.download import fetch  # it imports requests, which takes a while

        path = own_folder() / "fetched" / f"{name}-{entry.sha256[:12]}.pt"
        fetch([entry.url], path, page=entry.url, sha256=entry.sha256, size=entry.bytes)
        return path
    path = folder / entry.file
    if path.parent != folder or not path.is_file():
        raise UserError(f"the file of model {name!r} is missing: expected {path}; install or pack it again")
    if (got := sha256_of(path)) != entry.sha256:
        raise UserError(
            f"{path} is not the file of model {name!r} that was listed: got SHA-256 {got[:16]}…, expected "
            f"{entry.sha256[:16]}…; install or pack it again"
        )
    return path


def model_paths(model: str) -> list[Path]:
    """Return the files that a text names: what lies at this path or matches this pattern, else the model of this name.

    Raises:
        UserError: there is neither; near matches of a name are listed.
    """
    from crystalframer.prediction.loading import model_files  # it imports torch, which takes seconds

    named = NAME.fullmatch(model) is not None and not Path(model).exists()
    return [find_model(model)] if named else model_files(model)


def models_table() -> str:
    """Return the list for a terminal, a model on two lines."""
    lines = []
    for name, (entry, folder) in listed_models().items():
        where = "" if folder == PACKAGE else ", your own"
        train, val, test = entry.crystals
        lines += [
            f"{name}: {target.property} [{target.unit}], test MAE {target.mae:.3g} [{target.mae_low:.3g}, "
            f"{target.mae_high:.3g}] {target.unit}, the 90 % interval holds {target.coverage:.1%}"
            for target in entry.targets
        ]
        lines.append(
            f"  {entry.data}; {train:,} training, {val:,} validation, {test:,} test crystals; {entry.members} × "
            f"{entry.frame}, {entry.minutes:.0f} min of training, {entry.weight}{where}; {entry.licence}"
        )
    return "\n".join(lines) or "no models yet: `crystalframer pack` makes one of finished trainings"
