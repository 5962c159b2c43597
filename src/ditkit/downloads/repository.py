"""A repository on the Hugging Face hub: its commits, its files, and one file of it.

huggingface_hub knows the addresses, the commits, the files and who may read them. The bytes come by `fetch`, because
`hf_hub_download` neither continues what an earlier process has begun nor checks what it got.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from .. import durable
from ..errors import MachineError, UsageError
from .fetch import Patience, fetch, offline
from .place import COMMIT, address
from .watch import Progress
from .web import seconds, words

Kind = Literal["dataset", "model"]
PARQUET = "try hf://{}@refs/convert/parquet, where the hub keeps many datasets as few large files"
OFFICIAL = "https://huggingface.co"
_TIMEOUT = 30  # seconds
_TOO_MANY = 50_000  # files, from which the hub's list is not whole
_ANSWER = TypeVar("_ANSWER")
_CLIENTS = ("httpx", "httpcore", "requests", "urllib3")  # huggingface_hub has used several
_LOGIN = "for what is not public set HF_TOKEN to a token of yours, or `hf auth login`"


class Unreachable(MachineError):
    """The hub cannot be asked: no network, an outage, or the user forbids it."""


@dataclass(frozen=True)
class Remote:
    """A file of a repository: its size in bytes, and the SHA-256 (of large ones) or the name that git has for it."""

    size: int
    sha256: str | None
    git: str | None


class Repository:
    """One on the hub that HF_ENDPOINT names, or on that of Hugging Face; `by_hand` is what to do if that fails."""

    def __init__(self, repo: str, kind: Kind, by_hand: str, patience: Patience):
        self.repo, self.kind, self.by_hand, self.patience = repo, kind, by_hand, patience

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return _endpoint() or OFFICIAL

    @property
    def page(self) -> str:
        """Where people read about the repository."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def look_up(self, revision: str) -> tuple[str, dict[str, Remote]]:
        """The hash of the commit that a branch, a tag or a part of a hash means, and all its files."""

        def read(api: Any) -> tuple[str, dict[str, Remote]]:
            info = api.repo_info(
                self.repo, repo_type=self.kind, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )
            if not COMMIT.fullmatch(info.sha):
                raise ValueError
            return info.sha, {one.rfilename: _remote(one) for one in info.siblings}

        commit, files = self.asked(read)
        if len(files) >= _TOO_MANY:
            raise UsageError(f"{address(self.repo)} has too many files for the hub to list", PARQUET.format(self.repo))
        return commit, files

    def check_access(self, path: str, commit: str) -> None:
        """Raises UsageError where a file is kept from the user: everybody may list those of a gated repository."""

        def check(api: Any) -> None:
            from huggingface_hub import get_hf_file_metadata

            try:
                get_hf_file_metadata(self._url(path, commit), timeout=_TIMEOUT)
            except Exception as error:
                if getattr(getattr(error, "response", None), "status_code", 404) in (401, 403):
                    raise

        self.asked(check)

    def get(self, path: str, remote: Remote, commit: str, folder: Path, on_progress: Progress) -> None:
        """One file, unless it is there."""
        target = folder / path
        if remote.size == 0:
            durable.make_folder(target.parent)
            target.touch()
            return
        from huggingface_hub.utils import build_hf_headers

        token = {name: value for name, value in build_hf_headers().items() if name.lower() == "authorization"}
        fetch(
            self._url(path, commit),
            target,
            sha256=remote.sha256,
            git=remote.git,
            headers=token,
            by_hand=self.by_hand or None,
            on_progress=on_progress,
            patience=self.patience,
        )

    def _url(self, path: str, commit: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, path, repo_type=self.kind, revision=commit, endpoint=_endpoint())

    def asked(
        self, ask: Callable[[Any], _ANSWER], explain: Callable[[Exception], Exception | None] = lambda _: None
    ) -> _ANSWER:
        """What the hub answers, asked again while that may help. Raises Unreachable, or UsageError for what is not.

        `explain` may have other words for an error.
        """
        if name := offline():
            raise Unreachable(f"{address(self.repo)} is not looked up, because {name} is set", self.by_hand)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # or it asks the hub first who else may be using it
        from huggingface_hub import HfApi

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        api = HfApi(endpoint=_endpoint(), library_name="ditkit")
        for delay in (*self.patience.delays, None):
            try:
                return ask(api)
            except Exception as error:
                wait = _wait(error)
                if delay is None or wait is None or wait > self.patience.longest:
                    raise explain(error) or self._explained(error) from None
                time.sleep(max(delay, wait))
        raise AssertionError

    def _explained(self, error: Exception) -> Exception:
        """An error of huggingface_hub, or of what it asks with, in ditkit's words; others as they are."""
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
            return Unreachable(f"cannot look up {place}: {endpoint} answers {code}", self.by_hand)
        if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
            return Unreachable(f"cannot look up {place}: {endpoint} does not answer as the hub does", self.by_hand)
        if (why := connection_words(error)) is not None:
            return Unreachable(f"cannot reach {endpoint} for {place}: {why}", self.by_hand)
        return error


def connection_words(error: Exception) -> str | None:
    """What went wrong with a connection of huggingface_hub's; None for an error of another kind."""
    if not type(error).__module__.startswith(_CLIENTS) and not isinstance(error, OSError):
        return None
    name = type(error).__name__
    why = "nothing came for too long" if "Timeout" in name else (str(error).splitlines() or [name])[0]
    if re.search("getaddrinfo|[Nn]ame or service|name resolution|nodename", why):
        why = words(socket.gaierror())
    return why


def status(error: Exception) -> int | None:
    """What the hub answered, if an error is its answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _remote(file: Any) -> Remote:
    return Remote(int(file.size), file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)


def _wait(error: Exception) -> float | None:
    """Seconds to wait before another try; None if another would be as bad."""
    response = getattr(error, "response", None)
    if response is None:
        return 0.0 if re.search("Timeout|Protocol", type(error).__name__) else None
    code = response.status_code
    return seconds(response.headers.get("Retry-After")) if code in (408, 425, 429) or code >= 500 else None


def _endpoint() -> str | None:
    """The hub's address from the environment, read now and not when huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
