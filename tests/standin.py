"""A stand-in for the Hugging Face Hub, on loopback: repositories from dicts, real HTTP, faults on request.

It also serves plain files, as the published matrices' authors do. Fixtures, for conftest: `hub` and those it needs.
"""

import base64
import dataclasses
import hashlib
import io
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import pytest_socket
import torch


class StandInHub:
    """The server.

    Attributes:
        repos: {"org/name": {file name: bytes, or the path of a file}}; change it at any time.
        raw: {path below the server's root: bytes}.
        faults: {part of "METHOD path": fault}. A fault is a status (401, 404, 500...), "gated", "half" (half the body,
            then the connection closes), "wrong" (other bytes of the same length), "html" (a page, as a captive portal
            answers).
        requests: "METHOD path" of everything asked, in order.
        pushed: The header of every commit, in order: summary, and so on.
        tokens: Every bearer token that was sent.
    """

    def __init__(self):
        self.repos, self.raw, self.faults = {}, {}, {}
        self.requests, self.pushed, self.tokens = [], [], []
        self._commits = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_folder(self, repo_id, folder):
        """Serve a folder's files as a repository."""
        self.repos[repo_id] = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}

    def add_published(self, entry, data):
        """Serve a published matrix's checkpoint where its authors have it."""
        self.raw[urlsplit(entry.url).path] = data

    def commit(self, repo_id):
        """The commit that a repository's files are now; older ones stay available."""
        files = self.repos[repo_id]
        names = json.dumps([repo_id, sorted((name, etag(data)) for name, data in files.items())])
        commit = hashlib.sha1(names.encode()).hexdigest()
        self._commits[repo_id, commit] = dict(files)
        return commit

    def files(self, repo_id, revision):
        """The commit and files of a revision, or None."""
        if revision == "main":
            return self.commit(repo_id), self.repos[repo_id]
        return (revision, self._commits[repo_id, revision]) if (repo_id, revision) in self._commits else None

    def asked(self, part):
        """How many requests had `part` in "METHOD path"."""
        return sum(part in request for request in self.requests)


def published_entry(weight, log_scale, **changes):
    """A row of the table of published matrices, and the checkpoint that the matrix's authors have."""
    from labclip.io import published
    from labclip.io.folder import matrix_sha256

    file = io.BytesIO()
    torch.save({"linear.weight": weight, "t": torch.tensor(log_scale)}, file)
    data = file.getvalue()
    facts = {"embed_dim": len(weight), "logit_scale": log_scale, "size": len(data)}
    hashes = {"file_sha256": hashlib.sha256(data).hexdigest(), "matrix_sha256": matrix_sha256(weight)}
    return dataclasses.replace(published.PUBLISHED[0], **facts, **hashes, **changes), data


def content_of(data):
    return data.read_bytes() if isinstance(data, Path) else data


def etag(data):
    """As the Hub names a file: by its SHA-256, which for small ones is not what the Hub does, and enough here."""
    return hashlib.sha256(content_of(data)).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # A client that lost patience is part of the game; anything else is a fault of this file.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Or every answer waits 40 ms for its second packet.

    def log_message(self, *arguments):
        pass

    def answer(self):
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        hub.requests.append(request)
        if token := self.headers.get("Authorization"):
            hub.tokens.append(token.removeprefix("Bearer "))
        self.body = self.read_body()
        self.fault = next((fault for part, fault in hub.faults.items() if part in request), None)
        if self.fault == "gated":
            self.send(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif self.fault == "html":
            self.send(200, b"<html><body>Welcome to the hotel</body></html>", {"Content-Type": "text/html"})
        elif isinstance(self.fault, int):
            self.send(self.fault, {"error": "as asked for"})
        elif path in hub.raw:
            self.send(200, hub.raw[path])
        elif path.startswith("/api/"):
            self.api(path.removeprefix("/api/"))
        else:
            self.resolve(path)

    do_HEAD = do_GET = do_POST = answer  # noqa: N815

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status, content, headers=None):
        content = json.dumps(content).encode() if not isinstance(content, bytes) else content
        if self.fault == "wrong":
            content = bytes(255 - byte for byte in content)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            half = self.fault == "half"
            self.wfile.write(content[: len(content) // 2] if half else content)
            self.close_connection = self.close_connection or half

    def not_found(self, code):
        self.send(404, {"error": code}, {"X-Error-Code": code})

    def resolve(self, path):
        """GET or HEAD /ORG/NAME/resolve/REVISION/FILE."""
        parts = path.strip("/").split("/")
        if len(parts) < 5 or parts[2] != "resolve" or "/".join(parts[:2]) not in self.server.hub.repos:
            return self.not_found("RepoNotFound")
        stored = self.server.hub.files("/".join(parts[:2]), parts[3])
        if stored is None:
            return self.not_found("RevisionNotFound")
        commit, files = stored
        data = files.get("/".join(parts[4:]))
        if data is None:
            return self.not_found("EntryNotFound")
        content = content_of(data)
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        return self.send(200, content, headers)

    def api(self, path):
        hub = self.server.hub
        parts = path.split("/")
        if path == "validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "repos/create":
            asked = json.loads(self.body)
            repo_id = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            status = 409 if repo_id in hub.repos else 200
            hub.repos.setdefault(repo_id, {})
            return self.send(status, {"url": f"{hub.url}/{repo_id}"})
        repo_id = "/".join(parts[1:3])
        if repo_id not in hub.repos:
            return self.not_found("RepoNotFound")
        action, revision = parts[3] if len(parts) > 3 else "revision", "/".join(parts[4:]) or "main"
        if action == "preupload":
            names = [file["path"] for file in json.loads(self.body)["files"]]
            return self.send(
                200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        if action == "commit":
            return self.commit(repo_id)
        stored = hub.files(repo_id, revision)
        if stored is None:
            return self.not_found("RevisionNotFound")
        commit, files = stored
        if action == "tree":
            return self.send(
                200, [{"type": "file", "path": name, "size": 1, "oid": etag(data)} for name, data in files.items()]
            )
        return self.send(
            200, {"id": repo_id, "sha": commit, "private": False, "siblings": [{"rfilename": name} for name in files]}
        )

    def commit(self, repo_id):
        hub = self.server.hub
        lines = [json.loads(line) for line in self.body.splitlines()]
        hub.pushed.append(next(line["value"] for line in lines if line["key"] == "header"))
        for line in lines:
            if line["key"] == "file":
                hub.repos[repo_id][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = hub.commit(repo_id)
        answer = {"commitUrl": f"{hub.url}/{repo_id}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}
        if "create_pr=1" in self.path:
            answer["pullRequestUrl"] = f"{hub.url}/{repo_id}/discussions/1"
        return self.send(200, answer)


@pytest.fixture(autouse=True)
def loopback_only():
    """No test reaches beyond this machine."""
    pytest_socket.socket_allow_hosts(["127.0.0.1", "localhost"], allow_unix_socket=True)
    yield
    pytest_socket._remove_restrictions()


@pytest.fixture(scope="session")
def hub_client():
    """The client's one session of connections, which takes long to make, closed at the end."""
    from huggingface_hub import get_session

    yield
    get_session().close()


@pytest.fixture
def hub(tmp_path, monkeypatch, hub_client):
    """A stand-in Hub that this process's Hub client talks to, with an empty cache of its own at `hub.cache`.

    The client reads its settings on import, so they are changed in its module; `hub.environment(home)` is for others.
    """
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    home = tmp_path / "hf-home"
    with StandInHub() as server:
        server.home, server.cache, server.assets = home, home / "hub", home / "assets"
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(server.cache),
            "HUGGINGFACE_HUB_CACHE": str(server.cache),
            "HF_ASSETS_CACHE": str(server.assets),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value, raising=False)
        # Clients before 1.0 take a copy of it.
        template = "HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(file_download, template, settings[template], raising=False)

        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("LABCLIP_AUTHORS_ENDPOINT", server.url)
        # The client sleeps between its attempts; here the answer will not change.
        import time

        sleepless = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
        monkeypatch.setattr(_http, "time", sleepless)
        monkeypatch.setattr(file_download, "time", sleepless)
        yield server
