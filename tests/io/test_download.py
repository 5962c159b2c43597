"""Whom a download trusts."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Iterator

import pytest

from ditkit.io import download
from ditkit.io.certificates import trusted


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


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_who_says_whom_to_trust_trusts_nobody_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "certificates")
    assert not context_of_a_request(monkeypatch).get_ca_certs()
