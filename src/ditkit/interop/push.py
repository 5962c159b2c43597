"""Push(): one commit on the hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MachineError, UsageError
from ..io.download import Patience, offline
from ..io.hub import OFFICIAL, Repository, Unreachable, address, connection_words, parse, progress_bars, status
from ..io.progress import Watch, no_progress
from ..runs.folder import runs_dir
from ..runs.lookup import find_weights
from ..runs.model_info import read_model_info
from . import readme
from .export import check_words
from .pack import FILES, packed

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


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What goes where: sizes in bytes by file name. `changed` is None before it is there, false if all was there."""

    to: Destination
    files: dict[str, int]
    private: bool
    changed: bool | None = None


def push(
    model: str | Path,
    repo: str,
    *,
    private: bool = False,
    message: str | None = None,
    dtype: str = "float32",
    data_licence: str | None = None,
    confirm: Callable[[Upload], bool] = lambda _upload: True,
    bars: bool = False,
    progress: Watch = no_progress,
) -> Upload:
    """Publish a model on the Hugging Face hub: EMA weights, settings, losses, the newest sample grid, a model card.

    No folder or file name of this machine is in what goes out. It is one commit: all arrives, or nothing. The token is
    the one that huggingface_hub finds.

    Args:
        model: a run by name or folder, a checkpoint folder, or a weights file.
        repo: user/name on the hub; made where it is missing.
        private: make it visible to its owner only.
        message: of the commit; the step if None.
        dtype: of the weights: float32, float16 or bfloat16.
        data_licence: of the images that it was trained on.
        confirm: asked before anything is sent; where it says no, nothing is.
        bars: let huggingface_hub draw its bars on stderr.
        progress: shown what is being done.

    Returns:
        What was sent; its `changed` is None where `confirm` said no.

    Raises:
        UsageError: for wrong words, without a token, and where the hub does not take the files.
        CheckpointError: for weights that are damaged or do not fit into `dtype`.
        MachineError: for the network.
    """
    name = check(repo, message=message, dtype=dtype, data_licence=data_licence)
    weights = find_weights(str(model), runs_dir())
    check_allowed(name)
    with progress("asking the hub …"):
        to = look_up(name)
    if private and to.is_there and not to.private:
        raise UsageError(f"hf://{name} is there already, and public", "choose another name, or make it private there")
    with packed(weights, name, dtype, data_licence, progress) as (folder, files):
        upload = Upload(to=to, files=files, private=to.private if to.is_there else private)
        if not confirm(upload):
            return upload
        gone = (to.files & set(FILES)) - set(files)  # of an earlier push
        message = message or f"Step {read_model_info(weights).step:,}"
        with progress_bars(shown=bars):
            changed = commit(to, folder, files, gone=gone, private=private, message=message)
    return replace(upload, changed=changed)


def check(repo: str, *, message: str | None = None, dtype: str = "float32", data_licence: str | None = None) -> str:
    """The name `user/name` of a repository, after all words are checked. Raises UsageError for those that are wrong."""
    name = destination_name(repo)
    check_words(dtype=dtype)
    readme.check_licence(data_licence)
    if message is not None and not message.strip():
        raise UsageError("--message is empty", "leave it out")
    return name


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
        files = frozenset(file.rfilename for file in info.siblings or ())
        return Destination(repo=repo, page=hub.page, is_there=True, private=bool(info.private), files=files)

    return hub.asked(read, lambda error: _refused(error, hub))


def commit(
    to: Destination, folder: Path, names: Collection[str], *, gone: Collection[str] = (), private: bool, message: str
) -> bool:
    """Commit the files of a folder, and take away those that are `gone`; false if that would change nothing.

    The repository is made if it is not there; `private` is for one that is made. Raises UsageError where the hub does
    not take them, MachineError for the network; then no file has changed.
    """
    hub = _hub(to.repo)

    def send(api: Any) -> bool:
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
        return hub.asked(send, lambda error: _explained(error, hub))


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
    return MachineError(f"the upload to {place} broke off: {why}", _AGAIN) if why is not None else None


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
