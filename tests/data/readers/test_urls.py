"""Pictures behind addresses: only with leave, only from the public internet, and not at any length."""

import contextlib
import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training import picture
from vlora import models
from vlora.data.format.samples import format_sample
from vlora.data.prefetch import WorkerPool
from vlora.data.readers import urls
from vlora.data.readers.urls import fetch, is_public, is_url
from vlora.data.rows import beside
from vlora.errors import SampleError
from vlora.system.files import expand

PUBLIC = "93.184.215.14"
HOSTS = {
    "pictures.example": [PUBLIC],
    "two.example": ["2606:2800:21f:cb07:6820:80da:af6b:8b2c", PUBLIC],
    "inside.example": ["10.0.0.7"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
}
HERE = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    picture(12, 8).save(path)
    return path.read_bytes()


class Server:
    """A server on this machine that stands for the hosts of `HOSTS`, and what was asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.failures = data, 0
        self.asked: list[Any] = []
        self.reached: list[str] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append((self.path, self.headers["Host"], self.headers.get("Authorization")))
                owner.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer by what the path begins with."""
        kind, _, rest = handler.path.lstrip("/").partition("/")
        if kind == "slow":
            trickle(handler)
            return
        answers: dict[str, tuple[int, bytes, dict[str, str]]] = {
            "to": (302, b"", {"Location": rest}),
            "loop": (307, b"", {"Location": handler.path + "x"}),
            "status": (int(rest) if rest.isdigit() else 200, b"", {}),
            "short": (200, self.data[:50], {"Content-Length": str(len(self.data))}),
            "endless": (200, self.data * 50, {}),
            "huge": (200, b"", {"Content-Length": str(2**40)}),
            "busy": (503 if self.failures > 0 else 200, self.data, {}),
        }
        self.failures -= kind == "busy"
        status, data, headers = answers.get(kind, (200, self.data, {}))
        if kind != "nonsense":
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
        handler.wfile.write(data)


def trickle(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Answer with headers for half a minute."""
    handler.send_response(200)
    # Until nobody listens any more.
    with contextlib.suppress(OSError):
        for _ in range(600):
            handler.send_header("X-Slow", "1")
            handler.flush_headers()
            time.sleep(0.05)


@pytest.fixture
def server(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Let names resolve as `HOSTS` says, and let every connection to one of their addresses come here."""
    server = Server(data)
    ask, connect = socket.getaddrinfo, socket.create_connection

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host in HOSTS:
            return [(2, 1, 6, "", (address, port)) for address in HOSTS[host]]
        return ask(host, port, *args, **kwargs)

    def reach(place: tuple[str, int], timeout: float) -> socket.socket:
        server.reached.append(place[0])
        if ":" in place[0]:
            raise OSError(101, "Network is unreachable")
        return connect(("127.0.0.1", server.http.server_port), timeout=timeout)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", reach)
    monkeypatch.setattr(urls, "PAUSES_S", (0.0, 0.0))
    yield server
    server.http.shutdown()
    server.http.server_close()


def refusal(url: str, *, allow_urls: bool = True) -> str:
    """Say why a picture behind an address is refused."""
    with pytest.raises(SampleError, match=r"^rows row 3: cannot read the image ") as caught:
        models.open_image(url, "rows row 3", allow_urls=allow_urls)
    return str(caught.value)


def test_nothing_is_fetched_without_leave(server: Server) -> None:
    """Without the key an address is a bad row that names the key, and nobody is asked for anything."""
    for url in ("http://pictures.example/a.png", "HTTPS://pictures.example/a.png", "ftp://a/b", "s3://b/c"):
        assert "data.allow_urls" in refusal(url, allow_urls=False)
    assert not server.reached


@pytest.mark.usefixtures("server")
def test_the_key_reaches_the_encoder(encoder: Callable[..., models.Encoder]) -> None:
    """The recipe's key decides for the rows of a run."""
    row = format_sample({"image": "http://pictures.example/a.png", "question": "q", "answer": "a"})
    with pytest.raises(SampleError, match=r"data\.allow_urls"):
        encoder("qwen3_vl")(row)
    assert encoder("qwen3_vl", allow_urls=True)(row).image_sizes == ((12, 8),)


def test_fetching(server: Server, data: bytes) -> None:
    """With leave a picture is what the server has, asked for under its name at an address that was looked at."""
    assert fetch("http://pictures.example/a b.png?c=ä#d") == data
    assert fetch("http://two.example:8080/a") == data
    assert models.open_image("http://pictures.example", "row", allow_urls=True).size == (12, 8)
    assert [asked[:2] for asked in server.asked] == [
        ("/a%20b.png?c=%C3%A4", "pictures.example"),
        ("/a", "two.example:8080"),
        ("/", "pictures.example"),
    ]
    assert server.reached == [PUBLIC, HOSTS["two.example"][0], PUBLIC, PUBLIC]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"),
        *("10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]"),
        *("224.0.0.1", "255.255.255.255", "168.63.129.16", "inside.example", "mixed.example", "metadata.example"),
    ],
)
def test_what_is_not_public(host: str, server: Server) -> None:
    """Neither this machine nor its network is asked, however its address is written and whoever sends one there."""
    found = refusal(f"http://{host}:8000/secret")
    assert "not on the public internet" in found
    assert "not on the public internet" in refusal(f"http://pictures.example/to/http://{host}/secret")
    assert server.reached == [PUBLIC]
    assert [path for path, *_ in server.asked] == [f"/to/http://{host}/secret"]


def test_names_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked, whatever the name resolves to a moment later."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, port, **__: [(2, 1, 6, "", (one, port)) for one in next(answers)]
    )
    reached: list[str] = []

    def reach(place: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(place[0])
        raise ConnectionRefusedError(111, f"Connection refused within {timeout}")

    monkeypatch.setattr(urls, "PAUSES_S", ())
    monkeypatch.setattr(socket, "create_connection", reach)

    assert "Connection refused" in refusal("http://pictures.example/a.png")
    assert reached == [PUBLIC]


@pytest.mark.usefixtures("server")
def test_redirections(data: bytes) -> None:
    """Five redirections are followed, relative ones too; the sixth is not, and none to another scheme."""
    assert fetch("http://pictures.example/" + "to/http://pictures.example/" * 5 + "a.png") == data
    assert fetch("http://pictures.example/to//a.png") == data
    assert "more than 5 times" in refusal("http://pictures.example/" + "to/http://pictures.example/" * 6 + "a.png")
    assert "more than 5 times" in refusal("http://pictures.example/loop/")
    assert "http and https only" in refusal("http://pictures.example/to/file:///etc/passwd")
    assert "http and https only" in refusal("http://pictures.example/to/ftp://pictures.example/a")


def test_attempts(server: Server, data: bytes) -> None:
    """What may be better a moment later is tried three times; what will not, once."""
    server.failures = 2
    assert fetch("http://pictures.example/busy/") == data
    server.failures = 3
    assert "the server answers 503" in refusal("http://pictures.example/busy/")
    assert len(server.asked) == 6
    assert "the server answers 404 Not Found" in refusal("http://pictures.example/status/404")
    assert len(server.asked) == 7
    assert "of " in refusal("http://pictures.example/short/")
    assert len(server.asked) == 10


@pytest.mark.usefixtures("server")
def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much is not read, by its announcement or as it comes; neither is what takes too long."""
    assert "more than the" in refusal("http://pictures.example/huge/")
    monkeypatch.setattr(urls, "LARGEST_DOWNLOAD", 10_000)
    assert "more than the 10,000 bytes" in refusal("http://pictures.example/endless/")
    monkeypatch.setattr(urls, "LONGEST_S", 0.3)
    # Headers that have come to their end are too many, which is another reason.
    assert "takes longer than 0.3 s" in refusal("http://pictures.example/slow/")


def test_nobody_waits_for_what_is_left(server: Server) -> None:
    """When work ahead is over, what is being fetched is broken off; other threads' fetches go on."""
    with WorkerPool(1) as workers:
        left = workers.submit(fetch, "http://pictures.example/slow/")
        while not server.asked:
            time.sleep(0.01)
        assert not left.done()
    with pytest.raises(OSError, match="it takes longer"):
        left.result()
    assert fetch("http://pictures.example/a.png")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://pictures.example/a", "SSL"),
        ("http://user:pw5ec12e7@pictures.example/a", "has a user"),
        ("http:///a.png", "has no host"),
        ("http://pictures.example:99999/a", "ort"),
        ("http://[::1/a", "Invalid IPv6"),
        ("http://a\0b/c", ""),
        ("http://" + "a" * 300 + ".example/", ""),
        ("http://pictures.example/nonsense/?sig=5ec12e7", "cannot be understood"),
        ("gopher://pictures.example/a", "http and https only"),
    ],
)
@pytest.mark.usefixtures("server")
def test_addresses_that_are_none(url: str, why: str) -> None:
    """Whatever is wrong with an address or an answer is one row's error, without its secrets."""
    found = refusal(url)

    assert why in found
    assert "5ec12e7" not in found


@pytest.mark.usefixtures("server")
def test_secrets_of_redirections() -> None:
    """An error about the address that one leads to does not say what is secret in it."""
    assert "5ec12e7" not in refusal("http://pictures.example/to/ftp://u:5ec12e7@pictures.example/a?b=5ec12e7")
    assert "5ec12e7" not in refusal("http://pictures.example/status/403?X-Amz-Signature=5ec12e7")


@given(st.integers(0, 2**32 - 1))
def test_wrapped_addresses(number: int) -> None:
    """An address of version 6 that stands for one of version 4 is as public as that."""
    plain = ipaddress.IPv4Address(number)
    for prefix in ("::ffff:", "64:ff9b::"):
        assert is_public(ipaddress.IPv6Address(f"{prefix}{plain}")) == is_public(plain)
    if is_public(plain):
        assert plain.is_global


def test_files_are_no_addresses(tmp_path: Path, data: bytes) -> None:
    """A file:// address is a path, wherever it stands; other schemes are addresses."""
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    url = path.as_uri()

    assert expand(url) == path
    assert not is_url(url)
    assert not is_url("a/b.png")
    assert not is_url("C:/b.png")
    assert is_url("HTTP://a/b")
    assert beside(url, tmp_path / "elsewhere") == str(path)
    assert models.open_image(url, "row").size == (12, 8)
    assert beside("http://a/b.png", tmp_path) == "http://a/b.png"
