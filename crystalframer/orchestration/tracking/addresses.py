"""Addresses of tracking servers and databases, for MLflow's records and Optuna's studies.

They mean the same in every process, hold no secret, and so may be printed and recorded. A database's driver is stated,
since SQLAlchemy's own choice for ``postgresql://`` differs between its versions; its password is not, since addresses
end up in process lists and error messages: libpq finds it in ``~/.pgpass``.
"""

import importlib.util
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crystalframer.environment import reach_directly, variable, without_secret
from crystalframer.errors import UserError

DRIVER = "psycopg"
"""For PostgreSQL; what the extra ``cluster`` installs."""


def database_address(text: str) -> str:
    """Return a database's address with its driver; one of another kind than PostgreSQL as it is.

    Raises:
        UserError: the address cannot be read, holds a password, or its driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UserError(
            "expected a database's address such as postgresql://mlflow@HOST/mlflow; the one given cannot be read"
        ) from error
    if url.password is not None:
        raise UserError(
            f"the address {url.render_as_string(hide_password=True)} holds a password, which others on the machine "
            "could read: leave it out, and put a line HOST:PORT:DATABASE:USER:PASSWORD into ~/.pgpass (chmod 600)"
        )
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername=f"postgresql+{DRIVER}")
    if url.drivername == f"postgresql+{DRIVER}" and importlib.util.find_spec(DRIVER) is None:
        raise UserError(
            f"the address {text} is PostgreSQL's, whose driver is not installed: pip install 'crystalframer[cluster]'"
        )
    return url.render_as_string()


def tracking_address(given: str | None = None) -> str | None:
    """Return where MLflow records, as named on the command line, else by ``MLFLOW_TRACKING_URI``, else None.

    A relative path becomes absolute, since workers have other working directories. A user and password in the address
    of a server become those that MLflow's client signs in with, in this process and those that it starts.

    Raises:
        UserError: it is the address of a database and cannot be used.
    """
    text = (given or "").strip() or variable("MLFLOW_TRACKING_URI")
    if text is None:
        return None
    scheme, separator, rest = text.partition("://")
    if scheme in ("http", "https"):
        reach_directly(text)
        return _signed_in(text)
    if scheme.startswith("sqlite") and separator:
        path = rest.removeprefix("/")
        return text if path in ("", ":memory:") else f"{scheme}:///{Path(path).absolute()}"
    if separator:
        return database_address(text) if scheme.startswith("postgres") else text
    if text.startswith("file:"):
        return f"file://{Path(text.removeprefix('file:')).absolute()}"
    return str(Path(text).absolute()) if "/" in text or Path(text).is_dir() else text  # else e.g. databricks


def _signed_in(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return without_secret(uri).rstrip("/")
