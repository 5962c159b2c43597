"""Packages that ditkit does without until an option asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import UsageError


def is_installed(package: str) -> bool:
    """Whether a package could be imported; it is not, which may take seconds."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # one that was taken out of sys.modules by hand
        return False


def check_packages(what: str, packages: Sequence[str], extra: str, otherwise: str = "") -> None:
    """Raise UsageError where packages are missing that `what` needs; they are those of ditkit[extra].

    `otherwise` says what else to do: "leave out --track".
    """
    missing = [package.replace("_", "-") for package in packages if not is_installed(package)]
    if missing:
        noun = "the package" if len(missing) == 1 else "the packages"
        hint = f'`pip install "ditkit[{extra}]"`' + (f", or {otherwise}" if otherwise else "")
        raise UsageError(f"{what} needs {noun} {' and '.join(missing)}", hint)
