"""Finding the files of a published data set: fetched, in a folder, or a single one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from crystalframer.data.progress import Watch
from crystalframer.environment import expanded
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED, PublishedFile


@dataclass(frozen=True)
class Located:
    """A source and where its file is."""

    source: PublishedFile
    path: Path
    fetched: bool = False
    """It is a download of ours."""


def locate(name: str, source: str | None, downloads: Path, *, partial: bool, watch: Watch) -> list[Located]:
    """Find the files of a data set, fetching what is not there.

    Args:
        name: a published data set.
        source: a file; a folder that holds the published files; the address of a file (.json, .zip, .pkl) or of a
            folder; None: figshare.
        downloads: where what is fetched is kept.
        partial: be content with some of the files of a folder.
        watch: reports how far it is.

    Raises:
        UserError: a file is missing or cannot be fetched.
    """
    sources = PUBLISHED[name].files
    if source is None:
        return [_fetched(entry, entry.addresses, downloads, watch) for entry in sources]
    if urlsplit(source).scheme in ("http", "https"):
        name_at = Path(urlsplit(source).path).name
        if name_at.endswith((".json", ".zip", ".pkl")):
            return [_fetched(_named(sources, name_at), (source,), downloads, watch)]
        addresses = [f"{source.rstrip('/')}/{entry.file}" for entry in sources]
        pairs = zip(sources, addresses, strict=True)
        return [_fetched(entry, (address,), downloads, watch) for entry, address in pairs]
    path = expanded(source)
    if path.is_dir():
        return _in_folder(name, path, partial)
    if not path.is_file():
        files = ", ".join(entry.file for entry in sources)
        raise UserError(
            f"source {path} does not exist: give {sources[0].file}, a folder that holds {files}, or an address of these"
        )
    return [Located(_named(sources, path.name), path)]


def _named(sources: Sequence[PublishedFile], file: str) -> PublishedFile:
    """Return the source that a file is by its name; by any other name, the main one."""
    return next((source for source in sources if file in (source.file, source.inside)), sources[0])


def _fetched(source: PublishedFile, addresses: tuple[str, ...], downloads: Path, watch: Watch) -> Located:
    from crystalframer.data.preparation.download import fetch

    path = downloads / source.file
    fetch(addresses, path, page=source.page, sha256=source.sha256, size=source.size, watch=watch)
    return Located(source, path, fetched=True)


def _in_folder(name: str, folder: Path, partial: bool) -> list[Located]:
    found, missing = [], []
    for source in PUBLISHED[name].files:
        names = [entry for entry in (source.file, source.inside) if entry and (folder / entry).is_file()]
        if names:
            found.append(Located(source, folder / names[0]))
        else:
            missing.append(f"{source.file} (figshare file {source.figshare})")
    if not found or (missing and not partial):
        raise UserError(
            f"folder {folder} lacks {', '.join(missing)}: fetch {'it' if len(missing) == 1 else 'them'} from "
            f"{PUBLISHED[name].files[0].addresses[0].rsplit('/', 1)[0]}/NUMBER, or pass --partial to do without"
        )
    return found
