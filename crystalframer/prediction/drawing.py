"""`crystalframer predict --explain`: the picture of what one head looks at around an atom."""

from collections.abc import Sequence
from pathlib import Path

from crystalframer.errors import UserError
from crystalframer.pictures.attention_drawing import write_picture
from crystalframer.prediction.explain import attention_of
from crystalframer.prediction.structures import from_files
from crystalframer.training.trained_model import load_model

SUFFIXES = (".png", ".pdf", ".svg", ".html")


def explain_file(
    models: Sequence[Path], paths: Sequence[Path], figure: Path, *, atom: int, block: int, head: int
) -> int:
    """Draw the first structure of the first file; return the exit code.

    Raises:
        UserError: several models or files, an unreadable one, an atom, block or head that is not there, or a figure
            that cannot be written.
    """
    if len(models) != 1 or len(paths) != 1:
        raise UserError(f"--explain draws one file with one model, got {len(paths)} files and {len(models)} models")
    if figure.suffix.lower() not in SUFFIXES:
        raise UserError(f"--explain {figure}: got the suffix {figure.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    entry = next(from_files(paths))
    if entry.crystal is None:
        raise UserError(f"{paths[0]} cannot be drawn: {entry.reason}")
    view = attention_of(load_model(models[0]).model, entry.crystal, block)
    shown = view.around(atom, head)
    try:
        figure.parent.mkdir(parents=True, exist_ok=True)
        write_picture(shown, figure)
    except OSError as error:
        raise UserError(f"cannot write {figure}: {error.strerror}; choose another --explain") from error
    print(f"{figure}: {shown.title}, σ = {view.sigma[atom, head]:.2f} Å, {shown.weights[0]:.0%} on the atom itself")
    return 0
