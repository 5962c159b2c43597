"""A hub on loopback: repositories made by the test, served as huggingface_hub asks for them, with faults to switch on.

with hub({("dataset", "someone/faces"): {"train.parquet": content}}) as server:
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)

Whoever has the token of `server.users` can write: repositories, large files by Git LFS, and commits of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import LoopbackServer, QuietHandler

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
    broken: frozenset[str] = frozenset()  # paths of files that cannot be had at the moment
    other_commit: bool = False  # than the one that was asked for, says the hub of every file
    page: bool = False  # instead of a file's bytes
    gated: bool = False
    down: bool = False  # every answer is 503
    upload_cut_after: int | None = None  # bytes of a large file after which the connection of an upload breaks
    refused: str | None = None  # why the hub takes no commit


class Hub(LoopbackServer):
    """The server: its repositories, its faults, and what it was asked."""

    def __init__(self, repositories: Mapping[tuple[str, str], Mapping[str, bytes]]):
        super().__init__(_Answers)
        self.repositories = {key: dict(files) for key, files in repositories.items()}
        self.older: dict[str, dict[str, bytes]] = {}  # commits, by any hash that a test likes
        self.faults, self.asked, self.sent = Faults(), Counter[str](), Counter[str]()
        self.tokens: list[tuple[str, str | None]] = []  # (path, Authorization)
        self.users: dict[str, str] = {}  # who may write, by their tokens; a token that is no key is not known
        self.private: set[str] = set()
        self.uploaded: dict[str, bytes] = {}  # large files by their SHA-256, in a commit or not
        self.commits: list[tuple[str, str, list[str]]] = []  # (repository, message, files that changed)

    @property
    def storage(self) -> str:
        """Another host, where large files are."""
        return f"http://localhost:{self.server_address[1]}"


def hub(repositories: Mapping[tuple[str, str], Mapping[str, bytes]]) -> AbstractContextManager[Hub]:
    """A running hub."""
    return Hub(repositories).running()


class _Uploads(QuietHandler):
    """How a hub is written to, with huggingface_hub's `create_repo` and `create_commit`."""

    server: Hub

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked[f"POST /{path}"] += 1
        user = self.server.users.get(str(self.headers.get("Authorization")).removeprefix("Bearer "))
        if user is None:
            return self.answer(b"{}", 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path == "api/validate-yaml":
            front = json.loads(body)["content"].partition("---")[2].partition("---")[0]
            fine = "license: " in front
            return self.json(
                {"errors": [] if fine else [{"message": "no license"}], "warnings": []}, 200 if fine else 400
            )
        if path == "api/repos/create":
            return self.create(user, json.loads(body))
        repo = path.removesuffix(".git/info/lfs/objects/batch") if ".git/" in path else "/".join(path.split("/")[2:4])
        if not repo.startswith(f"{user}/"):
            return self.answer(b"{}", 403, {"X-Error-Message": "you do not have the right"})
        if ("model", repo) not in self.server.repositories:
            return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if ".git/" in path:
            return self.batch(json.loads(body)["objects"])
        files = self.server.repositories[("model", repo)]
        if "/preupload/" in path:
            return self.json({"files": [self.mode(one, files) for one in json.loads(body)["files"]]})
        return self.commit(repo, files, [json.loads(line) for line in body.splitlines()])

    def create(self, user: str, wanted: dict[str, Any]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != user:
            return self.answer(b"{}", 403, {"X-Error-Message": "not your namespace"})
        if ("model", repo) in self.server.repositories:
            return self.json({"error": "it is there"}, 409)
        self.server.repositories[("model", repo)] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.server.private.add(repo)
        return self.json({"url": f"{self.server.endpoint}/{repo}"})

    @staticmethod
    def mode(one: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
        """Whether a file goes into git or to the storage, and what the hub has of it."""
        large, there = one["size"] >= LARGE, files.get(one["path"])
        name = None if there is None else hashlib.sha256(there).hexdigest() if large else git_name(there)
        return {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": name}

    def batch(self, objects: list[dict[str, Any]]) -> None:
        """Where large files are to be sent; nowhere if they are here."""

        def entry(one: dict[str, Any]) -> dict[str, Any]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] in self.server.uploaded:
                return known
            return {**known, "actions": {"upload": {"href": f"{self.server.storage}/upload/{one['oid']}"}}}

        return self.json({"transfer": "basic", "objects": [entry(one) for one in objects]})

    def do_PUT(self) -> None:
        sha256, cut = self.path.rpartition("/")[2], self.server.faults.upload_cut_after
        self.server.asked["PUT"] += 1
        self.server.tokens.append((self.path, self.headers.get("Authorization")))
        if cut is not None:
            self.rfile.read(cut)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        content = self.content()
        if hashlib.sha256(content).hexdigest() != sha256:
            return self.answer(b"", 400)
        self.server.uploaded[sha256] = content
        return self.answer(b"", 200)

    def content(self) -> bytes:
        """The body, by its length or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def commit(self, repo: str, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        if self.server.faults.refused:
            return self.json({"error": self.server.faults.refused}, 400)
        header, *operations = lines
        after = dict(files)
        for line in operations:
            value = line["value"]
            if line["key"] == "deletedFile":
                del after[value["path"]]
            elif line["key"] == "file":
                after[value["path"]] = base64.b64decode(value["content"])
            else:
                after[value["path"]] = self.server.uploaded[value["oid"]]
        self.server.older[commit_of(files)] = files
        self.server.repositories[("model", repo)] = after
        changed = sorted(line["value"]["path"] for line in operations)
        self.server.commits.append((repo, header["value"]["summary"], changed))
        name = commit_of(after)
        return self.json({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{name}", "commitOid": name})

    def answer(self, body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, tree: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self.answer(json.dumps(tree).encode(), status, {"Content-Type": "application/json", **headers})


class _Answers(_Uploads):
    protocol_version = "HTTP/1.1"

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
            info = {"id": repo, "sha": commit, "siblings": siblings, "private": repo in self.server.private}
            return self.json({**info, "tags": [], "downloads": 0, "likes": 0})
        entries = _tree(files)
        first = int(query.get("cursor", ["0"])[0])
        last = first + _PAGE_LENGTH
        address = f"{self.server.endpoint}{urlsplit(self.path).path}?recursive=True&cursor={last}"
        return self.json(
            entries[first:last], headers={"Link": f'<{address}>; rel="next"'} if last < len(entries) else {}
        )

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

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> None:
        files = self.files(kind, repo, revision)
        if files is None:
            return None
        if self.server.faults.gated:
            return self.answer(b"", 403, {"X-Error-Code": "GatedRepo"})
        if path not in files:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        if path in self.server.faults.broken:
            return self.answer(b"", 503)
        content = files[path]
        commit = revision if revision in self.server.older else commit_of(files)
        headers = {"X-Repo-Commit": "e" * 40 if self.server.faults.other_commit else commit}
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
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            status, first = 206, int(wanted.removeprefix("bytes=").rstrip("-"))
            headers = {**headers, "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        body = content[first:]
        if faults.cut_after is not None and faults.cuts > 0 and len(content) >= LARGE:
            faults.cuts -= 1
            self.close_connection = True
            headers = {**headers, "Content-Length": str(len(body))}
            body = body[: faults.cut_after]
        if self.command != "HEAD":
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


def forget() -> None:
    """As in another process."""
    from ditkit.io import snapshot as snapshots

    snapshots._resolved.clear()
