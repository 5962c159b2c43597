"""Whom a download trusts."""

from __future__ import annotations

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from ditkit.io import download
from ditkit.io.certificates import for_other_libraries, trusted


@pytest.fixture(autouse=True)
def unknown_certificates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Python that finds none of the system's certificates, as python.org's for macOS does at first."""
    monkeypatch.setattr(ssl, "create_default_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    trusted.cache_clear()
    yield
    trusted.cache_clear()


def context_of_a_request(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context with which `ask` would connect."""
    contexts: list[ssl.SSLContext] = []

    def connect(self, request):
        contexts.append(self._context)
        raise ConnectionRefusedError

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", connect)
    with pytest.raises(ConnectionRefusedError):
        download.ask(urllib.request.Request("https://example.org/"), 1)
    return contexts[0]


def test_certificates_are_known_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of_a_request(monkeypatch)
    assert len(context.get_ca_certs()) > 50
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname


def test_other_libraries_trust_the_same_while_they_download_for_ditkit(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[ssl.SSLContext] = []
    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", lambda self, request: contexts.append(self._context))
    before = urllib.request._opener  # type: ignore[attr-defined]
    with for_other_libraries(), contextlib.suppress(AttributeError, urllib.error.URLError):
        urllib.request.urlopen("https://example.org/")
    assert contexts == [trusted()]
    assert urllib.request._opener is before  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_who_says_whom_to_trust_trusts_nobody_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "certificates")
    assert not context_of_a_request(monkeypatch).get_ca_certs()
