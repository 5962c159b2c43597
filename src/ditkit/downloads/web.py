"""Asking a web server: which addresses, through what, and what its answers mean."""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ..errors import MachineError, UsageError

REDIRECTS = (301, 302, 303, 307, 308)


def check_address(url: str) -> None:
    """Raises UsageError for what is no http or https address, or tells a password to everybody who sees it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good, parts = False, None
    if not good or parts is None or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r} is not an http or https address", "e.g. https://example.org/photos.zip")
    if parts.username or parts.password:
        raise UsageError(
            f"the address of {parts.hostname} has a name or a password in it, which would be written to files",
            "download the archive by hand and give its path",
        )


class Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that neither leave the web nor give up encryption, and not many of them.

    What the first server was told in confidence, no other is.
    """

    max_redirections, max_repeats = 10, 2
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # missing in Python 3.10

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            fp.close()
            raise MachineError(
                f"{req.full_url} redirects to {newurl[:200]!r}, which is not encrypted",
                "give the address where the file itself is",
            )
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None  # an error of its own kind
        if code == 308:
            code = 307
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.headers.pop("Authorization", None)
        return request


def ask(request: urllib.request.Request, timeout: float) -> Any:
    """The answer, through the proxy that the environment names; `request` is for a checked address."""
    director = urllib.request.build_opener(Redirects)
    return director.open(request, timeout=timeout)


def seconds(after: str | None) -> float:
    """What Retry-After says: seconds, or a date."""
    if after is None:
        return 0.0
    if after.strip().isascii() and after.strip().isdigit():
        return float(after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def words(error: Any) -> str:
    """What went wrong with a connection, without any words of the server's."""
    if isinstance(error, socket.gaierror):
        return "its host is not found (is there a network?)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if str(error).startswith("Tunnel connection failed"):
        return "the proxy refuses to connect"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.HTTPException):
        return f"the connection breaks off ({type(error).__name__})"
    return "the server does not speak HTTP" if isinstance(error, ValueError) else "the connection fails"
