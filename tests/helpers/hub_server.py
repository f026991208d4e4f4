"""A server on the loopback that speaks the Hugging Face hub's protocol, as far as its client needs for files.

Repositories are commits of files in memory.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator


class HubServer(http.server.ThreadingHTTPServer):
    """`repositories`: by name the commits, (id, {file: bytes}), the newest last; `asked`: (method, path) each."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Adds a commit of the files to those of the last; returns its id."""
        commits = self.repositories.setdefault(repo, [])
        content = {**(commits[-1][1] if commits else {}), **files}
        name = hashlib.sha1(repr((len(commits), sorted(content.items()))).encode()).hexdigest()
        commits.append((name, content))
        return name

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories[repo]
        if revision == "main":
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit[0].startswith(revision)), None)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self):
        self._get()

    def do_GET(self):
        self._get()

    def do_POST(self):
        self._answered(self._post)

    def do_PUT(self):
        self._answered(self._put)

    def log_message(self, *args):
        pass

    def _answered(self, answer):
        self.server.asked.append((self.command, self.path))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer(body)

    def _get(self):
        self.server.asked.append((self.command, self.path))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(?:\?.*)?", self.path)
        if match is None or match[1] not in self.server.repositories:
            return self._error("RepoNotFound")
        found = self.server.at(match[1], match[2])
        if found is None:
            return self._error("RevisionNotFound")
        commit, files = found
        if match[3] not in files:
            return self._error("EntryNotFound", commit)
        content = files[match[3]]
        digest = hashlib.sha256(content).hexdigest()
        self._send(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def _post(self, body):
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            said = json.loads(body)
            repo = f"{said.get('organization') or 'user'}/{said['name']}"
            if repo in self.server.repositories:
                return self._json({"error": "exists", "url": f"{self.server.address}/{repo}"}, 409)
            self.server.repositories[repo] = []
            return self._json({"url": f"{self.server.address}/{repo}", "id": repo})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main(\?.*)?", self.path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**thing, "actions": {"upload": {"href": f"{self.server.address}/lfs/{thing['oid']}", "header": {}}}}
                for thing in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main(\?.*)?", self.path):
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
            name = self.server.commit(match[1], files)
            address = f"{self.server.address}/{match[1]}/commit/{name}"
            return self._json({"commitUrl": address, "commitOid": name, "success": True})
        return self._json({"error": f"unknown {self.path}"}, 404)

    def _put(self, body):
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self._send(200, b"")

    def _error(self, code, commit=None):
        headers = {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(404, b"", headers)

    def _json(self, value, status=200):
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[HubServer]:
    """A server that answers while the context is open."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(monkeypatch, address: str) -> None:
    """Has the hub's client ask a server, as HF_ENDPOINT does before it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextlib.contextmanager
def serving_as_hub(monkeypatch, cache) -> Iterator[HubServer]:
    """The server as the hub, with an empty cache in a folder."""
    from huggingface_hub import constants

    with serving() as server:
        ask(monkeypatch, server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
