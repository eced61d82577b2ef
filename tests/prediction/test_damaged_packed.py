"""A packed model whose numbers cannot have been measured is refused in one sentence, before it predicts anything."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.errors import UserError
from crystalframer.prediction.loading import read_model
from crystalframer.training.safe_files import write_archive
from tests.fuzz.files import sound

NAN = float("nan")
IMPOSSIBLE: dict[str, Any] = {
    "calibration.scales": [0.0],
    "calibration.intervals.0.offset": 1e308,
    "calibration.intervals.0.hard": -1.0,
    "calibration.intervals.0.slopes": lambda values: values * NAN,
    "calibration.intervals.0.centre": lambda values: values[:1],
    "calibration.intervals.0.edges": torch.zeros(3, dtype=torch.float64),
    "calibration.intervals.0.scores": lambda groups: [groups[0].flip(0)],
    "calibration.local.errors": lambda values: -values,
    "calibration.local.places": lambda values: values[:, :1],
    "calibration.domain.crystals": lambda values: -values - 1,
    "calibration.domain.centre": lambda values: values.double(),
    "calibration.domain.axes": lambda values: values * NAN,
    "calibration.domain.points": lambda values: values[:0],
    "calibration.domain.volumes": [30.0, 10.0],
    "calibration.domain.far": NAN,
    "members.0.targets.0.std": 0.0,
    "members.0.targets.0.mean": NAN,
    "members": lambda members: members[:1],
}
"""By the dotted place in the file: a value, or what is made of the sound one."""


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_impossible_numbers_are_one_sentence(place: str, tmp_path: Path) -> None:
    content = torch.load(io.BytesIO(sound("packed")["packed.pt"]), weights_only=True)
    *way, last = (int(part) if part.isdecimal() else part for part in place.split("."))
    holder = content
    for part in way:
        holder = holder[part]
    new = IMPOSSIBLE[place]
    holder[last] = new(holder[last]) if callable(new) else new
    path = tmp_path / "packed.pt"
    write_archive(path, content)
    with pytest.raises(UserError, match=r"^(packed model|model file) .*packed\.pt lacks a part or has a wrong one"):
        read_model(path)
