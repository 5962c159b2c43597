"""A folder of files as one commit of a repository on the Hugging Face hub: all of them arrive, or none."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MachineError, UsageError
from .fetch import Patience, offline
from .place import address, parse
from .repository import OFFICIAL, Repository, Unreachable, connection_words, status

_AGAIN = "nothing was changed there; the same command tries again"
_TOKEN = "make one that may write at {}/settings/tokens, then set HF_TOKEN, or `hf auth login`"
_PATIENCE = Patience(delays=(1.0, 4.0))  # huggingface_hub itself sends each large file again and again


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A repository that files will go to."""

    repo: str
    page: str
    is_there: bool = False
    private: bool = False  # while it is there
    files: frozenset[str] = frozenset()


def destination_name(word: str) -> str:
    """`user/name` out of that, or of hf://user/name. Raises UsageError for anything else."""
    place = parse(word)
    if place.revision or place.subset:
        raise UsageError(f"{word!r} names more than a repository", "a model goes to the main branch of user/name")
    if "/" not in place.repo:
        raise UsageError(f"{word!r} lacks the user or organisation", f"it looks like user/{place.repo}")
    if any(part.startswith((".", "-")) or part.endswith((".", "-", ".git")) for part in place.repo.split("/")):
        raise UsageError(f"{word!r} is not a name that the hub takes", "begin and end it with a letter or a digit")
    return place.repo


def check_allowed(repo: str) -> None:
    """Raise MachineError where the environment forbids the network, UsageError where there is no token."""
    if name := offline():
        raise Unreachable(f"{address(repo)} is not written to, because {name} is set", f"unset {name}")
    if _token() is None:
        raise UsageError(f"there is no token to write to {address(repo)} with", _TOKEN.format(_hub(repo).endpoint))


def look_up(repo: str) -> Destination:
    """What is at a name on the hub. Raises UsageError for a token that is no good, MachineError for the network."""
    hub = _hub(repo)

    def read(api: Any) -> Destination:
        try:
            info = api.repo_info(repo, repo_type="model", token=_token(), timeout=30)
        except Exception as error:
            if status(error) == 404:
                return Destination(repo=repo, page=hub.page)
            raise
        files = frozenset(one.rfilename for one in info.siblings or ())
        return Destination(repo=repo, page=hub.page, is_there=True, private=bool(info.private), files=files)

    return hub.asked(read, lambda error: _refused(error, hub))


def upload(
    to: Destination, folder: Path, names: Collection[str], *, gone: Collection[str] = (), private: bool, message: str
) -> bool:
    """Commit the files of a folder, and take away those that are `gone`; false if that would change nothing.

    The repository is made if it is not there; `private` is for one that is made. Raises UsageError where the hub does
    not take them, MachineError for the network; then no file has changed.
    """
    hub = _hub(to.repo)

    def commit(api: Any) -> bool:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if not to.is_there:
            api.create_repo(to.repo, repo_type="model", private=private or None, exist_ok=True, token=_token())
        before = api.repo_info(to.repo, repo_type="model", token=_token())
        if private and not before.private:  # made by somebody in the meantime
            raise UsageError(f"{address(to.repo)} is there already, and public", "choose another name")
        operations = [
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in sorted(names)),
            *(CommitOperationDelete(path_in_repo=name, is_folder=False) for name in sorted(gone)),
        ]
        done = api.create_commit(to.repo, operations, repo_type="model", commit_message=message, token=_token())
        return done.oid != before.sha

    with warnings.catch_warnings(), _as_the_hub_stores():
        warnings.simplefilter("ignore")
        return hub.asked(commit, lambda error: _explained(error, hub))


@contextmanager
def _as_the_hub_stores() -> Iterator[None]:
    """Only the hub of Hugging Face itself is sure to have Xet, its newer storage; every hub knows Git LFS."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or _hub("").endpoint != OFFICIAL
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


@contextmanager
def without_bars(hidden: bool) -> Iterator[None]:
    """Within it, huggingface_hub draws no progress bars if they are to be hidden."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    change = hidden and not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()


def _hub(repo: str) -> Repository:
    return Repository(repo, "model", "check the network, or set HF_ENDPOINT to a mirror", _PATIENCE)


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _refused(error: Exception, hub: Repository) -> UsageError | None:
    """An answer that it is the token's fault."""
    code, place = status(error), address(hub.repo)
    if code == 401:
        return UsageError(f"{hub.endpoint} does not know the token", _TOKEN.format(hub.endpoint))
    if code == 403:
        return UsageError(
            f"the token may not write to {place}",
            f"take a name of your own, or another token: {_TOKEN.format(hub.endpoint)}",
        )
    return None


def _explained(error: Exception, hub: Repository) -> Exception | None:
    """An error in an upload in ditkit's words; None for one that has nothing to do with it."""
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):  # about one of the files
        error = error.__cause__
    if isinstance(error, UsageError):
        return error
    if refused := _refused(error, hub):
        return refused
    code, place = status(error), address(hub.repo)
    if code is not None and code < 500 and code not in (408, 425, 429):
        said = getattr(error, "server_message", None) or f"it answers {code}"
        return UsageError(f"{hub.endpoint} refuses the upload to {place}: {_short(said)}", _AGAIN)
    if isinstance(error, ValueError) and "README.md" in str(error):
        return UsageError(f"{hub.endpoint} refuses the model card: {_short(str(error))}", _AGAIN)
    why = f"{hub.endpoint} answers {code}" if code is not None else connection_words(error)
    if why is None and type(error) is RuntimeError:  # of Xet
        why = _short(str(error))
    return MachineError(f"the upload to {place} broke off: {why}", _AGAIN) if why is not None else None


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
