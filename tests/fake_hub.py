"""A Hub on this machine, in a thread: as much of its HTTP API as `huggingface_hub` needs to make, fill and read models.

Every file is "regular", so that its content is part of the commit and neither LFS nor Xet takes part. Only the owner's token may
write, and private repositories are hidden from everyone else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

OWNER, TOKEN = "ada", "hf_token_of_ada"


@dataclass
class Repository:
    """Commits by their identifier, each with all files; and what branches point to."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    messages: list[str] = field(default_factory=list)

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[revision]]

    def commit(self, branch: str, operations: list[dict[str, Any]]) -> str:
        files = dict(self.files(branch))
        for operation in operations:
            key, value = operation["key"], operation["value"]
            if key == "header":
                self.messages.append(value["summary"])
            elif key == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert key == "deletedFile", key
                del files[value["path"]]
        content = repr((self.branches[branch], sorted(files.items()))).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", url: str = "") -> None:
        self.status, self.code, self.message, self.url = status, code, message, url


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[FakeHub]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.hub.requests.append(f"{self.command} {path}")
        try:
            if self.hub.status is not None:
                raise Refused(self.hub.status, message="broken on purpose")
            headers, content = self.route(path, body)
            self.reply(200, headers, content)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self.reply(refused.status, headers, json.dumps({"error": refused.message, "url": refused.url}).encode())

    do_GET = do_HEAD = do_POST = answer

    def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def route(self, path: str, body: bytes) -> tuple[dict[str, str], bytes]:
        json_type = {"Content-Type": "application/json"}
        if path == "/api/repos/create":
            return json_type, json.dumps(self.create(json.loads(body))).encode()
        if path == "/api/validate-yaml":
            return json_type, b'{"errors": [], "warnings": []}'
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/(.+))?", path):
            name, verb, revision = match.groups()
            return json_type, json.dumps(self.model(name, verb, revision, body)).encode()
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(*match.groups())
        raise Refused(404, message=f"no such route: {path}")

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.authorised):
            raise Refused(404 if self.authorised else 401, "RepoNotFound", "Repository not found")
        return found

    def commit_of(self, name: str, revision: str) -> str:
        commit = self.repository(name).commit_of(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def writable(self, name: str) -> None:
        if not self.authorised:
            raise Refused(401, message="Invalid credentials in Authorization header")
        if name.partition("/")[0] != OWNER:
            raise Refused(403, message="You don't have the rights to create a model under this namespace")

    def create(self, given: dict[str, Any]) -> dict[str, str]:
        name = f"{given['organization']}/{given['name']}"
        self.writable(name)
        if name in self.hub.repositories:
            raise Refused(409, message="You already created this model repo", url=f"{self.hub.url}/{name}")
        private = given.get("visibility") == "private" or given.get("private") is True
        self.hub.repositories[name] = Repository(private)
        return {"url": f"{self.hub.url}/{name}", "name": name}

    def model(self, name: str, verb: str | None, revision: str | None, body: bytes) -> Any:
        if verb in {None, "revision"}:
            commit, repository = self.commit_of(name, revision or "main"), self.repository(name)
            files = [{"rfilename": path} for path in repository.commits[commit]]
            return {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": files}
        assert revision is not None
        if verb == "tree":
            files = self.repository(name).commits[self.commit_of(name, revision)]
            return [{"type": "file", "path": path, "size": len(file), "oid": etag(file)} for path, file in files.items()]
        self.writable(name)
        repository = self.repository(name)
        if verb == "branch":
            if revision in repository.branches:
                raise Refused(409, message="Reference already exists")
            repository.branches[revision] = repository.branches["main"]
            return {}
        if verb == "preupload":
            files = json.loads(body)["files"]
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        assert verb == "commit", verb
        commit = repository.commit(revision, [json.loads(line) for line in body.splitlines()])
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}

    def file(self, name: str, revision: str, path: str) -> tuple[dict[str, str], bytes]:
        commit = self.commit_of(name, revision)
        content = self.repository(name).commits[commit].get(path)
        if content is None:
            raise Refused(404, "EntryNotFound", "Entry not found")
        return {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit}, content


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@dataclass
class FakeHub:
    """The repositories by name, the requests so far, and the status of every answer, if it is not to work."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    status: int | None = None


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Serve an empty Hub within the context."""
    handler = type("Handler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
