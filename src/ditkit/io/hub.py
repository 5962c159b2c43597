"""The Hugging Face hub: addresses, what a repository holds, and one file of it, by huggingface_hub."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import MachineError, UsageError
from .atomic import update_digest
from .shared import INCOMPLETE, discard, own_blob, shared_cache, size_of

if TYPE_CHECKING:
    from .download import Patience

SCHEME = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """A repository, perhaps at a revision, and perhaps one of its configurations or folders."""

    repo: str
    revision: str | None = None
    subset: str = ""


def is_hub(address: str | None) -> bool:
    """Whether an address is on the hub."""
    return address is not None and address.startswith(SCHEME)


def parse(word: str) -> HubAddress:
    """`hf://user/dataset`, `hf://user/dataset/folder`, either with `@revision` behind. Raises UsageError."""
    path, _, revision = word.removeprefix(SCHEME).removeprefix("datasets/").partition("@")
    user, _, rest = path.strip("/").partition("/")
    name, _, subset = rest.partition("/")
    repo = f"{user}/{name}" if name else user
    check_repository(repo)
    if subset and any(part in ("", ".", "..") for part in subset.split("/")):
        raise UsageError(f"{word} names no folder of a repository", "e.g. hf://user/dataset")
    return HubAddress(repo, revision or None, subset)


def address(repo: str, revision: str | None = None) -> str:
    """The address of a repository; a commit is shortened."""
    return f"{SCHEME}{repo}" + (f"@{revision[:12] if COMMIT.fullmatch(revision) else revision}" if revision else "")


def check_repository(repo: str) -> None:
    """Raise UsageError for what cannot be the name of a repository."""
    if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", repo, re.ASCII) or ".." in repo or "--" in repo:
        raise UsageError(f"{repo[:200]!r} is not the name of a repository on the hub", "it looks like user/name")


Kind = Literal["dataset", "model"]
PARQUET = "try hf://{}@refs/convert/parquet, where the hub keeps many datasets as few large files"
OFFICIAL = "https://huggingface.co"
_TIMEOUT = 30  # seconds
_TOO_MANY = 50_000  # files, from which the hub's list is not whole
_CLIENTS = ("httpx", "httpcore", "requests", "urllib3")  # huggingface_hub has used several
_LOGIN = "for what is not public set HF_TOKEN to a token of yours, or `hf auth login`"
_CHECK_FILE = "check its permissions, or name another folder with the environment variable HF_HOME"
NO_ROOM = "free some space there, or name another folder with the environment variable HF_HOME"
_ANSWER = TypeVar("_ANSWER")


class Unreachable(MachineError):
    """The hub, or another server, cannot be asked: no network, an outage, or the user forbids it."""


@dataclass(frozen=True)
class Remote:
    """A file of a repository: its size in bytes, and its SHA-256 (of large files) or the hash that git gives it."""

    size: int
    sha256: str | None
    git: str | None

    def mismatch(self, path: Path) -> str | None:
        """What is wrong with a file; None if it is the hub's, as far as the hub states a hash. Raises MachineError."""
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"has {size:,} bytes, not {self.size:,}"
            if self.sha256:
                kind, expected, digest = "sha256", self.sha256, hashlib.sha256()
            elif self.git:
                kind, expected = "git name", self.git
                digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            else:
                return None
            with path.open("rb") as file:
                update_digest(digest, file)
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            raise MachineError(f"cannot read {path}: {error.strerror or error}", _CHECK_FILE) from None
        actual = digest.hexdigest()
        return f"has the {kind} {actual}, not {expected}" if actual != expected else None


class Repository:
    """One on the hub that HF_ENDPOINT names, or on that of Hugging Face; `by_hand` is what to do if that fails."""

    def __init__(self, repo: str, kind: Kind, by_hand: str, patience: Patience):
        self.repo, self.patience = repo, patience
        self.kind: Kind = kind
        self.by_hand = f"{by_hand} (from {self.page})" if by_hand and "://" not in by_hand else by_hand
        self._stopped = False
        self._writing = set[str]()  # hashes of the files that are being written

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return _endpoint() or OFFICIAL

    @property
    def page(self) -> str:
        """Where people read about the repository."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def folder(self) -> Path:
        """Its folder in the cache that tools share."""
        return shared_cache() / f"{self.kind}s--{self.repo.replace('/', '--')}"

    def look_up(self, revision: str) -> tuple[str, dict[str, Remote]]:
        """The hash of the commit that a branch, a tag or a part of a hash means, and all its files."""

        def read(api: Any) -> tuple[str, dict[str, Remote]]:
            info = api.repo_info(
                self.repo, repo_type=self.kind, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )
            if not COMMIT.fullmatch(info.sha):
                raise ValueError
            return info.sha, {sibling.rfilename: _remote(sibling) for sibling in info.siblings}

        commit, files = self.asked(read)
        if len(files) >= _TOO_MANY:
            raise UsageError(f"{address(self.repo)} has too many files for the hub to list", PARQUET.format(self.repo))
        return commit, files

    def check_access(self, path: str, commit: str) -> None:
        """Raise UsageError where a file is kept from the user: everybody may list those of a gated repository."""

        def check(api: Any) -> None:
            from huggingface_hub import get_hf_file_metadata, hf_hub_url

            url = hf_hub_url(self.repo, path, repo_type=self.kind, revision=commit, endpoint=_endpoint())
            try:
                get_hf_file_metadata(url, timeout=_TIMEOUT)
            except Exception as error:
                if status(error) in (401, 403):
                    raise

        self.asked(check)

    def download(self, path: str, remote: Remote, commit: str) -> None:
        """One file into the shared cache, unless it is there; a wrong one goes only once another has come.

        Raises MachineError if what the hub sends is wrong, too; it is removed.
        """
        target, name = self.folder / "snapshots" / commit / path, remote.sha256 or remote.git or ""

        def get(api: Any) -> None:
            options = {"repo_type": self.kind, "revision": commit, "cache_dir": shared_cache(), **self._bar(api, name)}
            blob = own_blob(target, self.folder)
            if blob is None or blob.name != (name or blob.name):  # huggingface_hub replaces blobs alone
                target.unlink(missing_ok=True)
            try:
                api.hf_hub_download(
                    self.repo, path, etag_timeout=_TIMEOUT, force_download=os.path.lexists(target), **options
                )
            finally:
                self._writing.discard(name)
            if size_of(target) is None:  # the hub says that it is of another commit
                raise ValueError

        for _ in range(2):
            if remote.mismatch(target) is None:
                return
            self.asked(get, lambda error: self._not_downloaded(error, path))
        if mismatch := remote.mismatch(target):
            with contextlib.suppress(OSError):
                discard(target, self.folder)
            raise MachineError(f"{address(self.repo, commit)}/{path} {mismatch}", self.by_hand)

    def _bar(self, api: Any, name: str) -> dict[str, Any]:
        """The option by which huggingface_hub says that it writes a file, and lets itself be stopped.

        Early versions lack it; they go on with the part of a file that a stopped process has left.
        """
        if "tqdm_class" not in inspect.signature(api.hf_hub_download).parameters:
            return {}
        from huggingface_hub.utils import tqdm

        def on_bytes() -> None:
            if self._stopped:
                raise InterruptedError
            self._writing.add(name)

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any):
                on_bytes()
                super().__init__(*args, **kwargs)

            def update(self, n: float | None = 1) -> bool | None:
                on_bytes()
                return super().update(n)

        return {"tqdm_class": Bar}

    def stop(self) -> None:
        """End the downloads of other threads and remove their parts of files, with which nobody could go on.

        huggingface_hub removes them when a download fails, but not in a thread that ends with its process.
        """
        self._stopped = True
        for name in tuple(self._writing):  # whose lock is held here: no other process writes them
            for part in (self.folder / "blobs").glob(f"{name}.*{INCOMPLETE}"):
                with contextlib.suppress(OSError):
                    part.unlink()

    def _not_downloaded(self, error: Exception, path: str) -> Exception:
        own = type(error).__module__ == "builtins" and not isinstance(error, (ConnectionError, TimeoutError))
        if own and isinstance(error, OSError) and error.strerror:  # of the disk
            return MachineError(f"cannot write to {self.folder}: {error.strerror}", NO_ROOM)
        return self._explained(error, f"download {address(self.repo)}/{path}")

    def asked(
        self, ask: Callable[[Any], _ANSWER], explain: Callable[[Exception], Exception | None] = lambda _: None
    ) -> _ANSWER:
        """What the hub answers, asked again while that may help. Raises Unreachable, or UsageError for what is not.

        `explain` may have other words for an error.
        """
        from .download import offline

        if name := offline():
            raise Unreachable(f"{address(self.repo)} is not looked up, because {name} is set", self.by_hand)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # or it asks the hub first who else may be using it
        from huggingface_hub import HfApi, constants

        constants.HF_HUB_DISABLE_SYMLINKS_WARNING = True  # Windows: copies serve as well as links
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        api = HfApi(endpoint=_endpoint(), library_name="ditkit")
        for delay in (*self.patience.delays, None):
            try:
                return ask(api)
            except Exception as error:
                wraps = type(error).__name__ in ("LocalEntryNotFoundError", "ValueError")
                if wraps and isinstance(error.__cause__, Exception):
                    error = error.__cause__  # "not in the cache", or "force download failed", because of this
                wait = _wait(error)
                if delay is None or wait is None or wait > self.patience.longest:
                    raise explain(error) or self._explained(error) from None
                time.sleep(max(delay, wait))
        raise AssertionError

    def _explained(self, error: Exception, task: str | None = None) -> Exception:
        """An error of huggingface_hub, or of what it asks with, in ditkit's words; others as they are."""
        task = task or f"look up {address(self.repo)}"
        place, endpoint, page = address(self.repo), self.endpoint, self.page
        name, code = type(error).__name__, status(error)
        if name == "RevisionNotFoundError":
            return UsageError(f"{place} has no such revision", f"{page}/commits lists them")
        if name == "GatedRepoError" or code == 403:
            return UsageError(f"{place} may be read only by those let in", f"accept its terms at {page}; {_LOGIN}")
        if code in (401, 404):
            return UsageError(
                f"there is no {self.kind} {self.repo} on the hub, or it is private", f"check it; {_LOGIN}"
            )
        if code is not None:
            return Unreachable(f"cannot {task}: {endpoint} answers {code}", self.by_hand)
        odd = name == "FileMetadataError" or "Consistency check failed" in str(error)  # a web page, instead of a file
        if odd or isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
            return Unreachable(f"cannot {task}: {endpoint} does not answer as the hub does", self.by_hand)
        if (why := connection_words(error)) is not None:
            return Unreachable(f"cannot reach {endpoint} for {place}: {why}", self.by_hand)
        return error


def connection_words(error: Exception) -> str | None:
    """What went wrong with a connection of huggingface_hub's; None for an error of another kind."""
    xet = isinstance(error, RuntimeError) or type(error).__name__ == "XetDownloadError"
    if not xet and not type(error).__module__.startswith(_CLIENTS) and not isinstance(error, OSError):
        return None
    name = type(error).__name__
    why = "nothing came for too long" if "Timeout" in name else (str(error).splitlines() or [name])[0]
    if re.search("peer closed|IncompleteRead", why):
        why = "the connection breaks off"
    if re.search("getaddrinfo|[Nn]ame or service|name resolution|nodename", why):
        from .download import words

        why = words(socket.gaierror())
    return why


def status(error: Exception) -> int | None:
    """What the hub answered, if an error is its answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _remote(file: Any) -> Remote:
    return Remote(int(file.size), file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)


def _wait(error: Exception) -> float | None:
    """Seconds to wait before another try; None if another would be as bad."""
    from .download import seconds

    response = getattr(error, "response", None)
    if response is None:
        return 0.0 if re.search("Timeout|Protocol|ChunkedEncoding", type(error).__name__) else None
    code = response.status_code
    return seconds(response.headers.get("Retry-After")) if code in (408, 425, 429) or code >= 500 else None


def _endpoint() -> str | None:
    """The hub's address from the environment, read now and not when huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


@contextlib.contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Within it, huggingface_hub draws its progress bars, or does not."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    change = not shown and not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()
