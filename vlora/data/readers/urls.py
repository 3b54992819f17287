"""Fetches pictures from URLs, only if the recipe allows it, and only from the public internet.

URLs come from data sets, and may be meant to reach services that only this machine can reach: its own, those of its
network, or a cloud's metadata. Every address of a host is checked, the connection goes to a checked address, and each
redirection is checked again. Proxies are not used, since their targets could not be checked.
"""

import contextlib
import functools
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator

from ...system.files import LARGEST_FILE
from ...system.leaving import told

LONGEST_S = 30.0
"""Time limit for one picture in seconds, including redirections and retries."""

CONNECT_S = 5.0
"""Seconds for a server to take a connection."""

WATCH_S = 0.2
"""Seconds between two checks for a reason to cancel."""

LARGEST_DOWNLOAD = min(64 * 2**20, LARGEST_FILE)
"""Largest picture in bytes."""

MOST_REDIRECTIONS = 5
PAUSES_S = (1.0, 4.0)
"""Seconds before each retry after a temporary failure."""

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
_MOVED = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_PORTS = {"http": 80, "https": 443}
_OWN = (ipaddress.ip_address("168.63.129.16"),)
"""Public addresses at which a cloud's own services answer; this one is Azure's."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HEADERS = {"User-Agent": "vlora", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_QUOTED = "%/:=&?~#+!$,;'@()*[]|"
"""Characters of a path that are not percent-encoded; others are encoded as UTF-8."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PassingError(OSError):
    """A temporary failure."""


def is_url(text: str) -> bool:
    """Whether a text for an image is a URL of any scheme except file."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() != "file"


def fetch(url: str) -> bytes:
    """Fetch a URL.

    Raises:
        OSError: The server cannot be reached, or answers something else.
        ValueError: The URL is invalid, leads to a place that is not allowed, or the picture is too large.
    """
    deadline = time.monotonic() + LONGEST_S
    for pause in PAUSES_S:
        try:
            return _follow(url, deadline)
        except PassingError:
            if time.monotonic() + pause > deadline or told().wait(pause):
                raise
    return _follow(url, deadline)


def _follow(url: str, deadline: float) -> bytes:
    for _ in range(MOST_REDIRECTIONS + 1):
        found = _ask(url, deadline)
        if isinstance(found, bytes):
            return found
        if url.lower().startswith("https:") and not found.lower().startswith("https:"):
            msg = f"it leads from https to {found}, which is not secure"
            raise ValueError(msg)
        url = found
    msg = f"it leads from place to place more than {MOST_REDIRECTIONS} times"
    raise ValueError(msg)


def _ask(url: str, deadline: float) -> bytes | str:
    """Send one request; return the content, or the target of a redirection."""
    scheme, host, port, target = _take_apart(url)
    addresses = _resolve(host, port)
    secure = scheme == "https"
    connection = (
        http.client.HTTPSConnection(host, port, context=_context())
        if secure
        else http.client.HTTPConnection(host, port)
    )
    try:
        with _opened(addresses, port, deadline) as plain, contextlib.closing(connection):
            # A connection with a socket does not open its own, to an address that was not checked.
            connection.sock = _context().wrap_socket(plain, server_hostname=host) if secure else plain
            connection.request("GET", target, headers=_HEADERS)
            with connection.getresponse() as response:
                if response.status in _MOVED and response.headers["Location"]:
                    return urllib.parse.urljoin(url, str(response.headers["Location"]))
                return _read(response)
    except http.client.HTTPException as error:
        msg = f"the server's answer cannot be understood ({type(error).__name__})"
        raise OSError(msg) from None
    except (TimeoutError, ConnectionError) as error:
        msg = error.strerror or str(error) or type(error).__name__
        raise PassingError(msg) from None


def _take_apart(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and path."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _PORTS:
        msg = f"found the scheme {parts.scheme!r}; pictures are fetched over http and https only"
        raise ValueError(msg)
    if not parts.hostname or parts.username is not None or parts.password is not None:
        msg = "the address has no host" if not parts.hostname else "the address has a user; none is ever sent"
        raise ValueError(msg)
    target = urllib.parse.quote(parts.path or "/", safe=_QUOTED)
    if parts.query:
        target += "?" + urllib.parse.quote(parts.query, safe=_QUOTED)
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme], target


def _resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, all of them public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        msg = f"there is no host {host} ({error.strerror})"
        raise (PassingError if error.errno == socket.EAI_AGAIN else OSError)(msg) from None
    addresses = [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
    for address in addresses:
        if not is_public(address):
            msg = f"{host} is at {address}, which is not on the public internet; nothing is fetched from there"
            raise ValueError(msg)
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address is public; an IPv6 address that embeds an IPv4 one is judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    is_own = address.is_private or address.is_loopback or address.is_link_local or address in _OWN
    return address.is_global and not (is_own or address.is_multicast or address.is_reserved)


@contextlib.contextmanager
def _opened(addresses: list[Address], port: int, deadline: float) -> Iterator[socket.socket]:
    """Connect to checked addresses, and close the connection at the deadline.

    The connection is also closed when its result is no longer needed.
    """
    plain = _connect(addresses, port, deadline)
    done, expired, is_left = threading.Event(), threading.Event(), told()

    def watch() -> None:
        while not done.wait(min(WATCH_S, _left(deadline))):
            if is_left.is_set() or time.monotonic() >= deadline:
                expired.set()
                with contextlib.suppress(OSError):
                    plain.shutdown(socket.SHUT_RDWR)
                return

    threading.Thread(target=watch, name="vlora address", daemon=True).start()
    try:
        yield plain
    except (OSError, http.client.HTTPException):
        if not expired.is_set():
            raise
    finally:
        done.set()
        plain.close()
    if expired.is_set():
        msg = f"it takes longer than {LONGEST_S:g} s"
        raise TimeoutError(msg)


def _connect(addresses: list[Address], port: int, deadline: float) -> socket.socket:
    problem: OSError = ConnectionError("there is no address")
    for address in addresses:
        try:
            plain = socket.create_connection((str(address), port), timeout=min(CONNECT_S, _left(deadline)))
        except OSError as error:
            problem = error
        else:
            plain.settimeout(_left(deadline))
            return plain
    raise problem


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


@functools.cache
def _context() -> ssl.SSLContext:
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


def _read(response: http.client.HTTPResponse) -> bytes:
    if response.status != http.client.OK:
        reason = "".join(filter(str.isprintable, response.reason))[:60]
        msg = f"the server answers {response.status} {reason}"
        raise (PassingError if response.status in _BUSY else OSError)(msg)
    said = response.length or 0
    data = bytearray()
    while said <= LARGEST_DOWNLOAD and len(data) <= LARGEST_DOWNLOAD:
        part = response.read1(2**16)
        if not part:
            break
        data += part
    if max(said, len(data)) > LARGEST_DOWNLOAD:
        msg = f"it has more than the {LARGEST_DOWNLOAD:,} bytes that a picture behind an address may have"
        raise ValueError(msg)
    if len(data) < said:
        msg = f"the connection ended after {len(data):,} of {said:,} bytes"
        raise PassingError(msg)
    return bytes(data)
