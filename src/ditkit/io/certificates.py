"""Whom an encrypted connection trusts."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from functools import cache


@cache
def trusted() -> ssl.SSLContext:
    """Whom the system trusts, and Mozilla: Python on macOS may know nobody by itself. Or whom SSL_CERT_FILE says."""
    context = ssl.create_default_context()
    if not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & set(os.environ):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


@contextlib.contextmanager
def for_other_libraries() -> Iterator[None]:
    """While inside, `urllib.request.urlopen` trusts the same: torch and others download with it."""
    import urllib.request

    before = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted())))
    try:
        yield
    finally:
        urllib.request._opener = before  # pyright: ignore[reportAttributeAccessIssue]  # install_opener takes no None
