"""Pictures behind addresses, fetched only where a recipe allows it, and only from the public internet.

An address comes from a data set, so that it may have been written to reach what only this machine can: services of its
own, of its network, or a cloud's metadata. Every address that a name resolves to is checked, the connection goes to
the very address that was checked, and each redirection is checked anew. Proxies are not used: what one connects to
could not be checked.
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
"""Seconds for one picture, redirections and further attempts included."""

CONNECT_S = 5.0
"""Seconds for a server to take a connection."""

WATCH_S = 0.2
"""Seconds between two looks at whether there is reason to break off."""

LARGEST_DOWNLOAD = min(64 * 2**20, LARGEST_FILE)
"""Bytes of a picture behind an address."""

MOST_REDIRECTIONS = 5
PAUSES_S = (1.0, 4.0)
"""Seconds between attempts, where the network or the server may be better a moment later."""

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
_MOVED = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_PORTS = {"http": 80, "https": 443}
_OWN = (ipaddress.ip_address("168.63.129.16"),)
"""Addresses of the public internet that a cloud answers at from within; this one is Azure's."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HEADERS = {"User-Agent": "vlora", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_QUOTED = "%/:=&?~#+!$,;'@()*[]|"
"""Characters that stay in what is asked for; others are written as bytes of UTF-8."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PassingError(OSError):
    """A failure that may pass."""


def is_url(text: str) -> bool:
    """Whether a text that stands for an image is an address of any scheme but that of files."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() != "file"


def fetch(url: str) -> bytes:
    """Fetch what is behind an address.

    Raises:
        OSError: The server cannot be reached, or answers something else.
        ValueError: The address is none, leads to where nothing is fetched from, or to more than is taken.
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
    """Ask a server once; give what it has, or where it sends one to."""
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
            # A connection that has a socket makes none of its own, to who knows where.
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
    """Give scheme, host, port, and what to ask for."""
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
    """Give the addresses of a host, all of them public."""
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
    """Whether anybody on the internet has the same at this address; one that wraps another is what it wraps."""
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
    """Connect to addresses that were checked, and break off at the deadline, whatever the server does until then.

    The connection is also broken off once its result is no longer wanted.
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
