"""Whom an encrypted connection trusts."""

from __future__ import annotations

import os
import ssl
from functools import cache


@cache
def trusted() -> ssl.SSLContext:
    """Whom the system trusts, and Mozilla: Python on macOS may know nobody by itself. Or whom SSL_CERT_FILE says."""
    context = ssl.create_default_context()
    if not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & set(os.environ):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
