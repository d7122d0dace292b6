"""Who may speak to a server: a token and TLS off the machine itself, and no page of another site."""

import hmac
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lewm.files import shorten


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What a server asks of whoever connects.

    Args:
        host: Address that it listens on.
        token: What clients must show; None for nothing.
        tls: Certificates; None for no encryption.
    """

    host: str
    token: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, host: str, token: str | None, certfile: Path | None, keyfile: Path | None) -> "Access":
        """Check what a user gives.

        Raises:
            ValueError: If other machines could reach the server without a token, or read along.
        """
        if (certfile is None) != (keyfile is None):
            raise ValueError("certfile, keyfile: one is given alone; give both")
        if token is not None and not (token.isascii() and token.isprintable() and len(token) >= 16):
            raise ValueError("token: must be at least 16 printable ASCII characters; make one: openssl rand -hex 16")
        if not is_loopback(host) and (token is None or certfile is None):
            raise ValueError(
                f"host={shorten(host, 60)}: can be reached by other machines, which needs --token, --certfile and "
                "--keyfile; give them, or --host 127.0.0.1"
            )
        context = None
        if certfile is not None and keyfile is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(certfile, keyfile)
            except OSError as error:  # of ssl too
                text = f"certfile={certfile}: cannot be used with keyfile={keyfile} ({error}); give PEM files"
                raise ValueError(shorten(text)) from None
        return cls(host=host, token=token, tls=context)

    def refuses_origin(self, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from a page of another site, or through another site's name for this machine."""
        host = headers.get("Host", "")
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return True
        name = urlsplit(f"//{host}").hostname or ""
        return self.token is None and not is_loopback(name)

    def knows(self, headers: Mapping[str, str], path: str) -> bool:
        """Whether a request shows the token: in a header, as openpi's clients do, or as `?token=`, as a page must."""
        if self.token is None:
            return True
        kind, _, shown = headers.get("Authorization", "").partition(" ")
        if kind.lower() not in ("api-key", "bearer"):
            shown = asked(path, "token") or ""
        return hmac.compare_digest(shown.strip().encode(), self.token.encode())


def asked(path: str, name: str) -> str | None:
    """Return what a path asks for by a name, `/?name=value`."""
    try:
        return parse_qs(urlsplit(path).query, max_num_fields=8).get(name, [None])[0]
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
