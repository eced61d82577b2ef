"""Who may use a cluster's MLflow server: those who know the cluster's token.

MLflow's server lets everyone in. On one machine it listens on loopback alone, but the nodes of a cluster have to
reach it, so there it stands behind this gate: a request must bring a password that follows from Ray's token, which
every node holds already (``~/.ray/auth_token``). One secret, in a file, in no YAML and in no command line.

`mlflow server --app-name crystalframer` finds `create_app` by the entry point in pyproject.toml. ``python -m
crystalframer.orchestration.tracking.gate`` prints the password, for a browser at the other end of an SSH tunnel.
"""

import base64
import binascii
import hmac
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from crystalframer.errors import UserError

APP_NAME = "crystalframer"
"""What the entry point is called."""
OPEN_PATHS = ("/health", "/version")
"""Answered to everyone: they say that a server is there, and nothing of what it holds."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def cluster_token() -> str | None:
    """Return Ray's token where Ray itself would look for it, None where token authentication is not in use."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


def password() -> str | None:
    """Return the password of the cluster's MLflow server, None where the cluster has no token."""
    token = cluster_token()
    return None if token is None else hmac.digest(token.encode(), b"mlflow", "sha256").hex()


def sign_in() -> None:
    """Let this process's MLflow clients pass the gate, unless the user set another token."""
    if (word := password()) is not None:
        os.environ.setdefault("MLFLOW_TRACKING_TOKEN", word)


class Gate:
    """An ASGI application that passes on what brings the password."""

    def __init__(self, inner: AsgiApp, word: str) -> None:
        """Stand before `inner`."""
        self._inner = inner
        self._word = word.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "lifespan" and scope.get("path") not in OPEN_PATHS and not self._admits(scope):
            await _refuse(scope, send)
        else:
            await self._inner(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(_password_of(header), self._word)


def create_app() -> Gate:
    """Return MLflow's application behind the gate; what `mlflow server` starts."""
    word = required_password()
    from mlflow.server.fastapi_app import app as mlflow_app

    return Gate(mlflow_app, word)


def required_password() -> str:
    """Return the password.

    Raises:
        UserError: the cluster has no token.
    """
    if (word := password()) is None:
        raise UserError(
            "this cluster has no token, and without one anybody could write to its MLflow server: run `ray "
            "get-auth-token --generate`, set RAY_AUTH_MODE=token, and start the cluster again"
        )
    return word


def _password_of(header: bytes) -> bytes:
    """Return what an Authorization header brings: a bearer's token, or the password of a browser's dialogue."""
    kind, _, value = header.partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b'Basic realm="MLflow of the cluster"')]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"this MLflow server asks for the cluster's password\n"})


if __name__ == "__main__":
    try:
        print(required_password())
    except UserError as error:
        sys.exit(f"error: {error}")
