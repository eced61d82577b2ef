"""What `make HASHES=1` installs is what was tested, file by file, and nothing is missing from it."""

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}")
NOT_LISTED = re.compile(r"nvidia-|cuda-")
"""What torch pins itself."""


def versions(path: Path) -> dict[str, str]:
    """Return the pinned versions by canonical name."""
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\n]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def needed(name: str, extras: frozenset[str], found: dict[str, frozenset[str]]) -> None:
    """Note what a package that is installed here needs, with what that needs."""
    if extras <= found.get(name, frozenset()) and name in found:
        return
    found[name] = found.get(name, frozenset()) | extras
    for text in metadata.requires(name) or []:
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            needed(canonicalize_name(wanted.name), frozenset(wanted.extras), found)


def test_versions_are_those_that_were_tested(root: Path) -> None:
    tested, hashed = versions(root / "constraints.txt"), versions(root / "requirements-linux-x86_64.txt")
    assert {name: tested.get(name) for name in hashed if not NOT_LISTED.match(name)} == {
        name: version for name, version in hashed.items() if not NOT_LISTED.match(name)
    }


def test_every_package_has_the_hashes_of_its_files_and_no_address(root: Path) -> None:
    text = (root / "requirements-linux-x86_64.txt").read_text(encoding="utf-8")
    assert "://" not in text
    lines = [line.removesuffix(" \\") for line in text.splitlines() if not line.startswith("#")]
    package = ""
    without = set()
    for line in lines:
        if "==" in line:
            package = line
            without.add(package)
        else:
            assert HASH.fullmatch(line), line
            without.discard(package)
    assert not without


def test_nothing_that_a_checkout_needs_is_missing(root: Path) -> None:
    found: dict[str, frozenset[str]] = {}
    needed("crystalframer", frozenset({"dev"}), found)
    assert len(found) > 100
    assert found.keys() - {"crystalframer"} <= versions(root / "requirements-linux-x86_64.txt").keys()


def test_every_package_runs_on_the_oldest_python(root: Path) -> None:
    assert SpecifierSet(metadata.metadata("crystalframer")["Requires-Python"]).contains("3.11.0")
    pinned = versions(root / "constraints.txt")
    too_new = {}
    for found in metadata.distributions():
        name = canonicalize_name(found.metadata["Name"])
        (wanted,) = found.metadata.get_all("Requires-Python") or [""]
        if pinned.get(name) == found.version and not SpecifierSet(wanted).contains("3.11.0"):
            too_new[name] = wanted
    assert too_new == {}, "these refuse to be installed by the Python of Debian 12, 3.11.2"
