"""Who may use an MLflow server of ours: those who know its password, also among the users of one machine.

MLflow's server lets everyone in, and whoever is let in can have it read files of its owner. So every server that we
start stands behind this gate: a request must bring a password. On one machine it is drawn anew for each program that
starts a server, and travels in the environment alone; a browser gets it with the link that is printed, and keeps a
cookie. On a cluster it follows from Ray's token, which every node holds already (``~/.ray/auth_token``): one secret, in
a file, in no YAML and in no command line.

Behind the gate, too, artifacts stay below the server's own folder: an experiment cannot name another place for them,
and a link in the folder leads nowhere else. MLflow's assistant, which lets a language model run commands on the host,
is not there: its interface is refused, and its button hidden.

`mlflow server --app-name crystalframer` finds `create_app` by the entry point in pyproject.toml. ``python -m
crystalframer.orchestration.tracking.gate`` prints a cluster's password, for a browser at the other end of an SSH
tunnel.
"""

import base64
import binascii
import hmac
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from crystalframer.environment import home, variable
from crystalframer.errors import UserError

APP_NAME = "crystalframer"
"""What the entry point is called."""
OPEN_PATHS = ("/health", "/version")
"""Answered to everyone: they say that a server is there, and nothing of what it holds."""
PASSWORD_VARIABLE = "CRYSTALFRAMER_MLFLOW_PASSWORD"
"""Environment variable that tells a server of this machine its password."""
ARTIFACTS_VARIABLE = "CRYSTALFRAMER_MLFLOW_ARTIFACTS"
"""Environment variable that tells a server the folder of its artifacts."""
MAX_BODY = 2**20
"""Bytes of a request to make an experiment; a longer one is refused."""
_TOKEN = "MLFLOW_TRACKING_TOKEN"
_ON_ARRIVAL = """\
<!doctype html>
<title>MLflow</title>
<script>
for (const [name, value] of Object.entries(SETTINGS)) {
  if (localStorage.getItem(name) === null) localStorage.setItem(name, value)
}
const place = new URL(location)
place.searchParams.delete("token")
location.replace(place)
</script>
<noscript>MLflow's pages need JavaScript.</noscript>
"""
"""Leads a browser on to the page that its link names, once MLflow's page finds the settings it keeps in a browser."""
_BROWSER_SETTINGS = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",  # or its assistant takes a quarter of the first screen
    "mlflow.workflowType_v1": '"machine_learning"',  # or it shows what language models need
}
_TIDY = b"""\
<style>
body [data-assistant-ui],
body [data-component-id="mlflow.experiment_page.shared_view.banner"] { display: none !important }
</style>
"""
"""What MLflow has no setting for: its assistant's button, and the banner over a shared view, whose two buttons are in
the menu Views, too."""
_ASSISTANT = "/mlflow/assistant"
_CREDENTIALS = (_TOKEN, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def cluster_token() -> str | None:
    """Return Ray's token where Ray itself would look for it, None where token authentication is not in use."""
    if (variable("RAY_AUTH_MODE") or "").lower() != "token":
        return None
    if token := variable("RAY_AUTH_TOKEN"):
        return token
    path = Path(variable("RAY_AUTH_TOKEN_PATH") or home() / ".ray" / "auth_token")
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


def password() -> str | None:
    """Return the password of the cluster's MLflow server, None where the cluster has no token."""
    token = cluster_token()
    return None if token is None else hmac.digest(token.encode(), b"mlflow", "sha256").hex()


def sign_in() -> str:
    """Let this process's MLflow clients, and those it starts, pass the gate; return the password that they bring.

    It is what the user had them bring (``MLFLOW_TRACKING_TOKEN``, or a user's name and password), else the cluster's,
    else one drawn now.
    """
    if variable("MLFLOW_TRACKING_USERNAME") and (word := variable("MLFLOW_TRACKING_PASSWORD")):
        return word
    os.environ[_TOKEN] = token = variable(_TOKEN) or password() or secrets.token_hex(32)
    return token


def credentials() -> dict[str, str]:
    """Return what this process's MLflow clients sign in with, for the environment of processes elsewhere; secret."""
    return {name: value for name in _CREDENTIALS if (value := variable(name))}


class Gate:
    """An ASGI application that passes on what brings the password and stays within the artifacts' folder."""

    def __init__(self, inner: AsgiApp, word: str, artifacts: Path | None = None) -> None:
        """Stand before `inner`, whose artifacts are in the folder `artifacts`; None for storage that has no links."""
        self._inner = inner
        self._word = word.encode()
        self._cookie = hmac.digest(self._word, b"cookie", "sha256").hex()
        self._artifacts = artifacts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS:
            await self._inner(scope, receive, send)
        elif self._is_link(scope):
            await self._welcome(scope, send)
        elif not self._admits(scope):
            await _refuse(scope, send)
        elif self._leads_out(scope):
            await _answer(send, 403, b"this artifact is not below the server's own folder\n")
        elif _asks_assistant(scope):
            await _answer(send, 403, b"this server runs no assistant\n")
        elif scope["type"] == "http" and scope["path"] == "/":
            await self._inner(scope, receive, _tidying(send))
        elif _makes_experiment(scope):
            await self._make_experiment(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        brought = _password_of(headers.get(b"authorization", b""))
        if brought:
            return hmac.compare_digest(brought, self._word)
        return hmac.compare_digest(_cookie_of(headers.get(b"cookie", b""), _cookie_name(scope)), self._cookie)

    def _is_link(self, scope: Scope) -> bool:
        """Return whether a browser follows the link that was printed."""
        words = _asked(scope).get("token", [])
        return scope["type"] == "http" and bool(words) and hmac.compare_digest(words[0].encode(), self._word)

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Exchange the link's password for a cookie, so that it stays in no address line and no history."""
        page = _ON_ARRIVAL.replace("SETTINGS", json.dumps(_BROWSER_SETTINGS)).encode()
        cookie = f"{_cookie_name(scope)}={self._cookie}; HttpOnly; SameSite=Strict; Path=/".encode()
        headers = [(b"set-cookie", cookie), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store")]
        await _answer(send, 200, page, headers, b"text/html; charset=utf-8")

    def _leads_out(self, scope: Scope) -> bool:
        """Return whether an artifact's path, links followed, leaves the folder of artifacts."""
        if self._artifacts is None or scope["type"] != "http":
            return False
        root = self._artifacts.resolve()
        return not all(path.resolve().is_relative_to(root) for path in _artifact_paths(scope, root))

    async def _make_experiment(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse an experiment that names a place for its artifacts."""
        body = b""
        more = True
        while more and len(body) <= MAX_BODY:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            content = json.loads(body or b"{}")
        except ValueError:
            content = None
        if len(body) > MAX_BODY or not isinstance(content, dict):
            await _answer(send, 400, b"expected a JSON object that names an experiment\n")
        elif any(value and key.replace("_", "").lower() == "artifactlocation" for key, value in content.items()):
            await _answer(send, 403, b"this server chooses where artifacts are kept: leave artifact_location out\n")
        else:
            await self._inner(scope, _replay(body, receive), send)


def create_app() -> Gate:
    """Return MLflow's application behind the gate; what `mlflow server` starts."""
    word = variable(PASSWORD_VARIABLE) or required_password()
    artifacts = variable(ARTIFACTS_VARIABLE)
    from mlflow.server.fastapi_app import app as mlflow_app

    return Gate(mlflow_app, word, Path(artifacts) if artifacts else None)


def required_password() -> str:
    """Return the password of a cluster's server.

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


def _cookie_name(scope: Scope) -> str:
    """Return the name of this server's cookie: browsers keep cookies by host, not by port."""
    return f"crystalframer-{scope['server'][1]}"


def _cookie_of(header: bytes, name: str) -> str:
    try:
        found = SimpleCookie(header.decode("latin-1")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None and found.value.isascii() else ""


def _asks_assistant(scope: Scope) -> bool:
    return scope["type"] == "http" and f"{_ASSISTANT}/" in f"{scope['path']}/"


def _tidying(send: Send) -> Send:
    """Return a `send` that hands MLflow's page on with a style sheet of ours, to be asked for anew each time."""
    start: MutableMapping[str, Any] = {}
    body = b""

    async def tidied(message: MutableMapping[str, Any]) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body", False):
            return
        page = body.replace(b"</head>", _TIDY + b"</head>")
        stale = (b"content-length", b"etag", b"last-modified")
        headers = [(name, value) for name, value in start["headers"] if name.lower() not in stale]
        headers.append((b"content-length", str(len(page)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": page})

    return tidied


def _makes_experiment(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and str(scope["path"]).rstrip("/").endswith("/mlflow/experiments/create"))


def _asked(scope: Scope) -> dict[str, list[str]]:
    """Return what a request's address asks for behind the question mark."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1"))


def _artifact_paths(scope: Scope, root: Path) -> list[Path]:
    """Return the places on disk that a request for artifacts may mean."""
    path = str(scope["path"])
    _, is_proxied, below = path.partition("/mlflow-artifacts/artifacts/")
    asked = {key: values[0] for key, values in _asked(scope).items()}
    if is_proxied:
        return [root / unquote(below).lstrip("/")]
    if "artifact" in path:
        run = asked.get("run_uuid") or asked.get("run_id") or ""
        inner = (asked.get("path") or "").lstrip("/")
        return [folder / inner for folder in root.glob(f"*/{run}/artifacts")] if run.isalnum() else [root / inner]
    return []


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands out a body once more before what comes after it."""
    handed = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]] | None = None,
    kind: bytes = b"text/plain",
) -> None:
    everything = [(b"content-type", kind), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": everything})
    await send({"type": "http.response.body", "body": body})


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    header = (b"www-authenticate", b'Basic realm="MLflow"')
    words = (
        b"this MLflow server asks for its password: open the link that the sweep or `crystalframer ui` printed; on a "
        b"cluster, `python -m crystalframer.orchestration.tracking.gate` prints the password\n"
    )
    await _answer(send, 401, words, [header])


if __name__ == "__main__":
    try:
        print(required_password())
    except UserError as error:
        sys.exit(f"error: {error}")
