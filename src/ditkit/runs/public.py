"""Settings and names as they are given away: without folders of this machine, queries of addresses, credentials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from ..autoencoders.files import is_repository
from ..config import RunConfig, from_dict, to_dict
from ..io.hub import is_hub
from ..io.paths import expanded
from .folder import run_of
from .model_info import ModelInfo

PATHS = ("data.path", "data.label_file", "autoencoder.source", "train.init_from")  # settings that may be paths


def without_places(config: RunConfig) -> RunConfig:
    """The settings without folders and files of this machine; repositories and addresses of the web stay."""
    tree = to_dict(config)
    for key in PATHS:
        section, _, name = key.partition(".")
        value = public_setting(key, tree[section].pop(name, None))
        if value is not None:
            tree[section][name] = value
    return from_dict(tree)


def public_card(info: ModelInfo) -> ModelInfo:
    """A ModelInfo without folders and files of this machine."""
    return replace(info, config=without_places(info.config))


def public_setting(key: str, value: str | None) -> str | None:
    """A setting that means something on other machines; None for a path of this one."""
    if value is None or is_hub(value):
        return value
    if key == "autoencoder.source":
        return value if is_repository(value) and not expanded(value).exists() else None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or parts.username or parts.password:
        return None
    return parts._replace(query="").geturl()  # a query may hold a token that grants access


def public_path(path: str) -> str:
    """A weights file as images made with it name it: inside its run, or by its name alone where it is absolute."""
    if not Path(path).is_absolute():
        return path
    run = run_of(Path(path))
    return Path(path).resolve().relative_to(run.path.parent).as_posix() if run else Path(path).name
