"""How repositories on the hub are written: hf://user/name, hf://user/name@revision, hf://user/name/folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError

SCHEME = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """A repository, perhaps at a revision, and perhaps one of its configurations or folders."""

    repo: str
    revision: str | None = None
    subset: str = ""


def is_hub(place: str | None) -> bool:
    """Whether a place is on the hub."""
    return place is not None and place.startswith(SCHEME)


def parse(place: str) -> Place:
    """`hf://user/dataset`, `hf://user/dataset/folder`, either with `@revision` behind. Raises UsageError."""
    words, _, revision = place.removeprefix(SCHEME).removeprefix("datasets/").partition("@")
    user, _, rest = words.strip("/").partition("/")
    name, _, subset = rest.partition("/")
    repo = f"{user}/{name}" if name else user
    check_repository(repo)
    if subset and any(part in ("", ".", "..") for part in subset.split("/")):
        raise UsageError(f"{place} names no folder of a repository", "e.g. hf://user/dataset")
    return Place(repo, revision or None, subset)


def address(repo: str, revision: str | None = None) -> str:
    """The other way round; a commit is shortened."""
    return f"{SCHEME}{repo}" + (f"@{revision[:12] if COMMIT.fullmatch(revision) else revision}" if revision else "")


def check_repository(repo: str) -> None:
    """Raises UsageError for what cannot be the name of a repository."""
    if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", repo, re.ASCII) or ".." in repo or "--" in repo:
        raise UsageError(f"{repo[:200]!r} is not the name of a repository on the hub", "it looks like user/name")
