"""The documentation site is built without a warning, its links lead somewhere, and it needs no network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crystalframer import __version__
from crystalframer.cli import COMMANDS
from crystalframer.config import TrialConfig
from scripts import settings_page

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site; a link or a heading that is not there ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_command_and_setting_has_its_place(site: Path) -> None:
    page = (site / "commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f'id="crystalframer-{name}"' in page
        assert f"usage: crystalframer {name}" in page
    page = (site / "settings.html").read_text(encoding="utf-8")
    for name in TrialConfig().to_flat_dict():
        assert f"<code>{name}</code>" in page


def test_the_page_of_settings_says_what_they_are() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "python scripts/settings_page.py"


@pytest.mark.slow
def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r"<(script|img|iframe)[^>]*src=.?https?:|<link[^>]*rel=.?(stylesheet|icon)[^>]*https?:")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    assert [path for path in pages if fetched.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
def test_links_lead_to_files_of_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        for target in re.findall(r'<a[^>]*href="([^"#?]+)', page.read_text(encoding="utf-8")):
            if page.name != "404.html" and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).is_file(), f"{page.relative_to(site)} links to {target}"


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1] == __version__  # type: ignore[index]
