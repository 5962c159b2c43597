"""A hub on loopback: repositories made by the test, served as huggingface_hub asks for them, with faults to switch on.

with hub({("dataset", "someone/faces"): {"train.parquet": content}}) as server:
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = b"<!DOCTYPE html><title>Sign in</title>" + b" " * 2000
LARGE = 1000  # bytes, from which a file is kept apart from git, with a SHA-256 and behind a redirect
_PAGE_LENGTH = 3  # entries of a listing


def git_name(content: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def commit_of(files: Mapping[str, bytes]) -> str:
    """Some hash of all files, as long as git's."""
    return hashlib.sha1(repr(sorted((path, git_name(content)) for path, content in files.items())).encode()).hexdigest()


@dataclass
class Faults:
    """What goes wrong; every counted fault passes after so many times."""

    cut_after: int | None = None  # bytes of a large file after which the connection breaks
    cuts: int = 1_000_000
    statuses: list[int] = field(default_factory=list)  # answered first, one a request
    retry_after: str | None = None
    wrong_content: bool = False
    page: bool = False  # instead of a file's bytes
    gated: bool = False
    down: bool = False  # every answer is 503


class Hub(ThreadingHTTPServer):
    """The server: its repositories, its faults, and what it was asked."""

    daemon_threads = True

    def __init__(self, repositories: Mapping[tuple[str, str], Mapping[str, bytes]]):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories = {key: dict(files) for key, files in repositories.items()}
        self.older: dict[str, dict[str, bytes]] = {}  # commits, by any hash that a test likes
        self.faults, self.asked, self.sent = Faults(), Counter[str](), Counter[str]()
        self.tokens: list[tuple[str, str | None]] = []  # (path, Authorization)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """Another host, where large files are."""
        return f"http://localhost:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Who hangs up in the middle is expected here."""


@contextmanager
def hub(repositories: Mapping[tuple[str, str], Mapping[str, bytes]]) -> Iterator[Hub]:
    """A running hub."""
    with Hub(repositories) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        words = [unquote(word) for word in parts.path.strip("/").split("/")]
        self.server.asked[f"{self.command} {parts.path}"] += 1
        self.server.tokens.append((parts.path, self.headers.get("Authorization")))
        faults = self.server.faults
        if faults.down or faults.statuses:
            status = 503 if faults.down else faults.statuses.pop(0)
            retry = {} if faults.retry_after is None else {"Retry-After": faults.retry_after}
            return self.answer(b"", status, retry)
        if words[0] == "api":
            return self.api(words[1:], parse_qs(parts.query))
        if words[0] == "storage":
            return self.stored(words[1])
        kind = "dataset" if words[0] == "datasets" else "model"
        at = words.index("resolve")
        repo = "/".join(words[kind == "dataset" : at])
        return self.resolve(kind, repo, words[at + 1], "/".join(words[at + 2 :]))

    def answer(self, body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def api(self, words: list[str], query: Mapping[str, list[str]]) -> None:
        kind = words[0].removesuffix("s")
        at = next((at for at, word in enumerate(words) if word in ("revision", "tree")), len(words))
        repo, rest = "/".join(words[1:at]), words[at:]
        files = self.files(kind, repo, rest[1] if len(rest) > 1 else "main")
        if files is None:
            return None
        if not rest or rest[0] == "revision":
            commit = rest[1] if rest and rest[1] in self.server.older else commit_of(files)
            siblings = [_sibling(path, content, "blobs" in query) for path, content in files.items()]
            info = {"id": repo, "sha": commit, "siblings": siblings}
            return self.json({**info, "private": False, "tags": [], "downloads": 0, "likes": 0})
        entries = _tree(files)
        first = int(query.get("cursor", ["0"])[0])
        last = first + _PAGE_LENGTH
        address = f"{self.server.endpoint}{urlsplit(self.path).path}?recursive=True&cursor={last}"
        return self.json(entries[first:last], {"Link": f'<{address}>; rel="next"'} if last < len(entries) else {})

    def files(self, kind: str, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a revision; None once the client was told that there are none."""
        files = self.server.repositories.get((kind, repo))
        if files is None:
            return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if revision in ("main", commit_of(files)):
            return files
        if revision not in self.server.older:
            return self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        return self.server.older[revision]

    def json(self, tree: Any, headers: Mapping[str, str] = {}) -> None:
        self.answer(json.dumps(tree).encode(), 200, {"Content-Type": "application/json", **headers})

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> None:
        files = self.files(kind, repo, revision)
        if files is None:
            return None
        if self.server.faults.gated:
            return self.answer(b"", 403, {"X-Error-Code": "GatedRepo"})
        if path not in files:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        content = files[path]
        headers = {"X-Repo-Commit": commit_of(files)}
        if len(content) < LARGE:
            return self.send(path, content, {**headers, "ETag": f'"{git_name(content)}"'})
        sha256 = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        return self.answer(b"", 302, {**headers, "Location": f"{self.server.storage}/storage/{sha256}"})

    def stored(self, sha256: str) -> None:
        everything = [*self.server.repositories.values(), *self.server.older.values()]
        contents = (content for files in everything for content in files.values())
        content = next(one for one in contents if hashlib.sha256(one).hexdigest() == sha256)
        return self.send(sha256, content, {"ETag": f'"{sha256}"'})

    def send(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        """A file, or the rest of one; with all that may go wrong."""
        faults = self.server.faults
        if faults.page:
            return self.answer(PAGE, 200, {"Content-Type": "text/html"})
        if faults.wrong_content:
            content = bytes(len(content))
        status, first = 200, 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == headers["ETag"]:
            status, first = 206, int(wanted.removeprefix("bytes=").rstrip("-"))
            headers = {**headers, "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        body = content[first:]
        if faults.cut_after is not None and faults.cuts > 0 and len(content) >= LARGE:
            faults.cuts -= 1
            self.close_connection = True
            headers = {**headers, "Content-Length": str(len(body))}
            body = body[: faults.cut_after]
        self.server.sent[name] += len(body)
        return self.answer(body, status, headers)


def _sibling(path: str, content: bytes, described: bool) -> dict[str, Any]:
    """A file as the page about a repository has it."""
    if not described:
        return {"rfilename": path}
    entry: dict[str, Any] = {"rfilename": path, "blobId": git_name(content), "size": len(content)}
    if len(content) >= LARGE:
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    folders = {path.rpartition("/")[0] for path in files if "/" in path}
    entries: list[dict[str, Any]] = [{"type": "directory", "path": one, "oid": "0" * 40, "size": 0} for one in folders]
    for path, content in files.items():
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": git_name(content), "size": len(content)}
        if len(content) >= LARGE:
            entry["oid"] = "1" * 40  # of the pointer that git keeps
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry["path"])
