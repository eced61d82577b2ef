"""The model card: a page of Markdown beside a model that says what it is, how good, and what it is for."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from crystalframer import __version__
from crystalframer.atomic_files import replace_text, writing
from crystalframer.data.dataset import SPLITS, TaskData
from crystalframer.errors import UserError
from crystalframer.escaping import for_markdown
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.nn.model import count_parameters
from crystalframer.prediction.cutoff import TruncationError, truncation_on_test
from crystalframer.prediction.evaluation import data_of
from crystalframer.prediction.packed import is_packed, packed_of
from crystalframer.published import PUBLISHED
from crystalframer.training.inference import evaluate_split
from crystalframer.training.metrics import TaskErrors
from crystalframer.training.safe_files import read_archive
from crystalframer.training.trained_model import TrainedModel, load_model, model_of

NAME = "model_card.md"


def write_card(
    checkpoint: Path,
    data: TaskData | None = None,
    errors: Sequence[TaskErrors] = (),
    output: Path | None = None,
) -> Path:
    """Write the card of a model beside it and return its path.

    Args:
        checkpoint: checkpoint or model file.
        data: what it was trained on, if at hand; the cutoff's error is measured on crystals of its test split.
        errors: its errors on the test split, if known; else they are computed where `data` are at hand.
        output: where to write instead.

    Raises:
        UserError: the checkpoint cannot be read, or the card not be written.
    """
    trained = load_model(checkpoint)
    if data is not None and not errors:
        errors = errors_on_test(trained, data)
    truncation = None if data is None else truncation_on_test(trained, data)
    path = output or checkpoint.with_name(NAME)
    return _write(path, model_card(trained, data, errors, truncation))


def card_of(model: Path, output: Path | None = None) -> Path:
    """Write the card of a model, with what can be measured where its training data are at hand.

    A packed model brings its card along; without `output` it is written to the current folder.

    Raises:
        UserError: the model cannot be read, or the card not be written.
    """
    content = read_archive(model)
    if is_packed(content):
        return _write(output or Path(NAME), packed_of(model, content, "cpu").card)
    trained = model_of(model, content, "cpu")
    try:
        data = data_of(trained)
    except UserError as error:
        print(f"errors and the cutoff's error are left out: {error}")
        data = None
    return write_card(model, data, (), output)


def _write(path: Path, card: str) -> Path:
    with writing(path, "--output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, card)
    return path


def errors_on_test(trained: TrainedModel, data: TaskData) -> tuple[TaskErrors, ...]:
    """Return the errors on the test split."""
    from crystalframer.data.batch import BatchLoader

    loader = BatchLoader(data, cutoff=trained.trial.model.cutoff, frame=trained.trial.model.frame)
    return evaluate_split(trained.model, loader, data, "test", trained.targets).by_task


def model_card(
    trained: TrainedModel,
    data: TaskData | None = None,
    errors: Sequence[TaskErrors] = (),
    truncation: TruncationError | None = None,
) -> str:
    """Return the card's text."""
    targets = ", ".join(for_markdown(f"{t.name.replace('_', ' ')} ({t.unit})") for t in trained.targets)
    parts = [
        f"# Model card: {targets}",
        _what(trained),
        "## Data\n\n" + _data(trained, data),
        "## Errors\n\n" + _errors(errors),
        "## Cutoff\n\n" + _cutoff(trained, truncation),
        "## Use\n\n" + _use(trained),
        "## Licence\n\n" + _licence(trained),
        "## Settings\n\n```yaml\n" + yaml.safe_dump(trained.trial.to_dict(), sort_keys=False) + "```",
    ]
    return "\n\n".join(parts) + "\n"


def _what(trained: TrainedModel) -> str:
    config = trained.trial.model
    kind = "Crystalformer, without frames" if config.frame == "none" else f"CrystalFramer with {config.frame} frames"
    weights = "averaged weights" if trained.averaged else "weights of the last step"
    return (
        f"{kind}: {config.num_blocks} block{'s'[: config.num_blocks > 1]}, width {config.width}, "
        f"{config.num_heads} heads, "
        f"{count_parameters(trained.model):,} parameters; {weights} after {trained.epoch} epochs, seed "
        f"{trained.trial.train.seed}. {trained.origin[:1].upper()}{trained.origin[1:]}. Read with crystalframer "
        f"{__version__}."
    )


def _data(trained: TrainedModel, data: TaskData | None) -> str:
    lines = [f"- data set: `{trained.trial.data.dataset}`, task `{trained.trial.data.task}`"]
    if trained.data_fingerprint:
        lines.append(f"- fingerprint of crystals, targets and splits: `{trained.data_fingerprint[:16]}`")
    if data is not None:
        sizes = ", ".join(f"{len(data.rows[split]):,} {split}" for split in SPLITS)
        lines.append(f"- split: {sizes}")
    lines += [for_markdown(f"- {t.name} in training: {t.mean:.4g} ± {t.std:.4g} {t.unit}") for t in trained.targets]
    if trained.elements is not None:
        names = " ".join(ELEMENTS[number - 1] for number in trained.elements)
        lines.append(f"- {len(trained.elements)} elements in training: {names}")
    return "\n".join(lines)


def _errors(errors: Sequence[TaskErrors]) -> str:
    if not errors:
        return "Not measured here: the training data were not at hand."
    rows = [
        f"| {for_markdown(e.task)} | {for_markdown(e.unit)} | {e.count:,} | {e.mae:.4g} | {e.rmse:.4g} "
        f"| {e.baseline_mae:.4g} |"
        for e in errors
    ]
    head = "| target | unit | test crystals | MAE | RMSE | MAE of predicting the training mean |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _cutoff(trained: TrainedModel, truncation: TruncationError | None) -> str:
    cutoff = trained.trial.model.cutoff
    if truncation is None:
        return f"Neighbours within {cutoff:g} Å; what lies beyond was not measured on these weights."
    unit, further = trained.unit, str(truncation)
    return (
        f"Neighbours within {cutoff:g} Å. With these weights, {truncation.wide:g} Å instead change the predictions of "
        f"{truncation.num_crystals} test crystals by {truncation.mean:.2g} {unit} on average and "
        f"{truncation.largest:.2g} {unit} at most; the largest σ is {truncation.sigma_max:.2f} Å."
        f"{further and f' {further[0].upper()}{further[1:]}.'}"
    )


def _use(trained: TrainedModel) -> str:
    return (
        "For estimating the properties above of periodic crystals like those of the training data: inorganic, at rest "
        "in their relaxed structures, computed with the same method. Not for molecules, surfaces or relaxation; not "
        f"for elements it has not met, or beyond atomic number {trained.trial.model.num_elements}. Its errors on other "
        "kinds of crystals are not known; check a sample before relying on it."
    )


def _licence(trained: TrainedModel) -> str:
    published = PUBLISHED.get(trained.trial.data.dataset)
    licence = published.licence if published else "your own; the weights inherit what it asks for"
    return f"Code: MIT. Training data: {licence}."
