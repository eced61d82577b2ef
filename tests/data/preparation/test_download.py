"""Downloads over a real HTTP server: what arrives is the file or one sentence, whatever the network does."""

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crystalframer.data.preparation import download
from crystalframer.data.preparation.download import Pin, Policy, fetch
from crystalframer.errors import UserError
from tests.fixtures.file_server import FileServer, serve

CONTENT = np.random.default_rng(0).bytes(3_000_000)
PATH = "/files/123"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as state:
        state.files[PATH] = CONTENT
        yield state


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "POLICY", Policy(stall_s=0.4, first_wait_s=0.01))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "x.zip"


def get(server: FileServer, target: Path, sha256: str | None = None) -> Pin:
    return fetch((server.address + PATH,), target, page="https://example.org/page", sha256=sha256)


def assert_is_complete(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert sorted(path.name for path in target.parent.iterdir()) == ["x.zip", "x.zip.json"]
    assert json.loads((target.parent / "x.zip.json").read_text()) == {"bytes": len(CONTENT), "sha256": SHA256}


def test_a_file_is_fetched_once(server: FileServer, target: Path) -> None:
    assert get(server, target) == Pin(len(CONTENT), SHA256)
    assert_is_complete(target)
    assert get(server, target) == Pin(len(CONTENT), SHA256)
    assert server.requests == [(PATH, "")]


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("fault", ["drop", "stall"])
def test_a_broken_connection_is_resumed_where_it_broke(
    server: FileServer, target: Path, fault: str, etags: bool
) -> None:
    server.faults[PATH] = [fault, fault]
    server.etags = etags
    get(server, target)
    assert_is_complete(target)
    asked = server.ranges_of(PATH)
    assert [header != "" for header in asked] == [False, True, True]
    starts = [int(header.removeprefix("bytes=").removesuffix("-")) for header in asked[1:]]
    assert 0 < starts[0] <= starts[1] < len(CONTENT)
    assert starts[0] > len(CONTENT) // 2 - 2 * download.BLOCK


def test_a_killed_download_is_resumed(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.every[PATH] = "500"
    server.faults[PATH] = ["drop"]
    with pytest.raises(UserError, match="the server answers 500"):
        get(server, target)
    assert not target.exists()
    assert target.with_name("x.zip.part").stat().st_size > 0
    server.every.clear()
    get(server, target)
    assert server.ranges_of(PATH)[-1].startswith("bytes=1")
    assert_is_complete(target)


def test_a_part_that_is_already_whole_is_not_fetched_again(server: FileServer, target: Path) -> None:
    server.every[PATH] = "500"
    server.faults[PATH] = ["drop"]
    with pytest.raises(UserError):
        get(server, target)
    target.with_name("x.zip.part").write_bytes(CONTENT)
    server.every.clear()
    get(server, target)
    assert server.ranges_of(PATH)[-1] == f"bytes={len(CONTENT)}-"
    assert_is_complete(target)


def test_a_server_without_ranges_sends_all_again(server: FileServer, target: Path) -> None:
    server.faults[PATH] = ["drop"]
    server.ranges = False
    get(server, target)
    assert_is_complete(target)
    assert server.ranges_of(PATH)[1].startswith("bytes=")


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changes_meanwhile_is_fetched_from_its_beginning(
    server: FileServer, target: Path, etags: bool
) -> None:
    server.every[PATH] = "503"
    server.faults[PATH] = ["drop"]
    server.etags = etags
    server.files[PATH] = b"old" * 700_000
    with pytest.raises(UserError, match="the server answers 503"):
        get(server, target)
    server.every.clear()
    server.files[PATH] = CONTENT
    get(server, target)
    assert_is_complete(target)


def test_pieces_of_two_files_are_noticed_by_the_hash(server: FileServer, target: Path) -> None:
    server.every[PATH] = "503"
    server.faults[PATH] = ["drop"]
    server.etags = False
    server.files[PATH] = bytes(len(CONTENT))  # as long as the other one, and no ETag tells them apart
    with pytest.raises(UserError):
        get(server, target)
    server.every.clear()
    server.files[PATH] = CONTENT
    get(server, target, SHA256)
    assert_is_complete(target)


def test_passing_failures_are_retried(server: FileServer, target: Path) -> None:
    server.faults[PATH] = ["500", "404", "503", "429"]
    get(server, target)
    assert len(server.requests) == 5
    assert_is_complete(target)


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        ("500", "the server answers 500", 6),
        ("404", "the server answers 404", 3),
        ("403", "the server answers 403", 1),
        ("challenge", r"wants to see a browser first .* fetch https://example.org/page with a browser and name", 1),
        ("html", "answers with a web page instead of the file", 1),
    ],
)
def test_lasting_failures_end_in_a_sentence(
    server: FileServer, target: Path, fault: str, message: str, requests: int
) -> None:
    server.every[PATH] = fault
    with pytest.raises(UserError, match=message) as raised:
        get(server, target)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == requests
    assert not target.parent.is_dir() or not list(target.parent.iterdir())


def test_the_next_address_is_tried_when_one_turns_scripts_away(server: FileServer, target: Path) -> None:
    server.every["/front"] = "challenge"
    fetch((server.address + "/front", server.address + PATH), target, page="")
    assert_is_complete(target)


def test_no_server_at_all(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x.zip"
        with pytest.raises(UserError, match=r"cannot fetch x\.zip .*no connection \(Connection refused\)"):
            fetch((address,), target, page="https://example.org/page")
    with pytest.raises(UserError, match="is no address that can be fetched"):
        fetch(("http://",), target, page="https://example.org/page")
    assert not target.parent.is_dir() or not list(target.parent.iterdir())


def test_a_wrong_hash_leaves_nothing(server: FileServer, target: Path) -> None:
    with pytest.raises(UserError, match=f"bytes and SHA-256 {SHA256}, expected any size and SHA-256 {'0' * 64}"):
        get(server, target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_the_hash_of_the_first_use_is_required_from_then_on(server: FileServer, target: Path) -> None:
    get(server, target)
    target.unlink()
    server.files[PATH] = CONTENT[:-1] + b"?"
    with pytest.raises(UserError, match=r"has changed or was tampered with; if you trust it, delete .*x\.zip\.json"):
        get(server, target)
    assert not target.exists()
    server.faults[PATH] = ["truncate"]
    with pytest.raises(UserError, match=r"1,500,000 bytes and SHA-256 .*, expected 3,000,000 bytes"):
        get(server, target)
    server.files[PATH] = CONTENT
    get(server, target)
    assert_is_complete(target)


def test_a_file_put_there_by_hand_is_taken(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    get(server, target)
    assert server.requests == []
    assert_is_complete(target)
    target.write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete it to have it fetched again"):
        get(server, target)


def test_a_folder_that_may_not_be_written_to(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*/file/downloads \(Not a directory\)"):
        get(server, tmp_path / "file" / "downloads" / "x.zip")
