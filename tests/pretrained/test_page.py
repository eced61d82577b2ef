"""The page on models runs from top to bottom, as a notebook would."""

import re
from pathlib import Path

import pytest

from crystalframer.pretrained.listing import add_to_list, read_list


def test_the_page_runs(root: Path, packed_folder: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "docs" / "models.md").read_text(encoding="utf-8")
    (name,) = set(re.findall(r'cf\.load\("([^"]+)"\)', text))
    own_folder.mkdir(parents=True)
    (own_folder / "single.pt").symlink_to(packed_folder / "single.pt")
    add_to_list(own_folder, name, read_list(packed_folder)["single"])
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/models.md", "exec"), namespace)
    assert f"{name}: formation_energy" in capsys.readouterr().out
    frame = namespace["frame"]
    assert frame["gap"].notna().all()  # type: ignore[index]
