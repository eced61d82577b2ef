"""Addresses of databases on a server, for MLflow's records and Optuna's studies.

The driver is stated, since SQLAlchemy's own choice for ``postgresql://`` differs between its versions; the password is
not, since addresses end up in process lists and error messages: libpq finds it in ``~/.pgpass``.
"""

import importlib.util

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
