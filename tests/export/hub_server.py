"""A small hub on the loopback interface that speaks what huggingface_hub asks when a folder is uploaded."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import attrs

TOKEN = "hf_" + "a1b2" * 8


@attrs.define
class Hub:
    """What a hub was given.

    Attributes:
        address: Where it listens.
        created: Bodies of the requests to make repositories.
        files: Content of each uploaded file, by its path.
        large: Paths of those that came by themselves, as large files do.
        asked: Method and path of every request.
        refuses: Answer that there is no leave to write.
    """

    address: str = ""
    created: list[dict[str, Any]] = attrs.field(factory=list)
    files: dict[str, bytes] = attrs.field(factory=dict)
    large: list[str] = attrs.field(factory=list)
    asked: list[str] = attrs.field(factory=list)
    refuses: bool = False


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `hub` is set by `serve`."""

    hub: ClassVar[Hub]
    objects: ClassVar[dict[str, bytes]]

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _reply(self, answer: Any, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _read(self) -> bytes:
        self.hub.asked.append(f"{self.command} {self.path}")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        """Say that there is nothing: what is asked for are repositories that are to be made."""
        self._read()
        self._reply({"error": "Repository not found"}, 404)

    def do_PUT(self) -> None:
        """Take a large file."""
        content, name = self._read(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == name
        self.objects[name] = content
        self._reply({})

    def do_POST(self) -> None:
        """Answer what the client asks on its way."""
        content = self._read()
        answers: dict[str, Callable[[bytes], Any]] = {
            "/create": self._create,
            "/validate-yaml": lambda _: {"errors": [], "warnings": []},
            "/preupload/main": self._choose,
            "/info/lfs/objects/batch": self._place,
            "/commit/main": self._commit,
        }
        if self.hub.refuses or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply({"error": "You have no leave to write here"}, 403)
            return
        found = next((answer for end, answer in answers.items() if self.path.endswith(end)), None)
        self._reply(*(({"error": "unknown"}, 404) if found is None else (found(content),)))

    def _create(self, content: bytes) -> Any:
        self.hub.created.append(json.loads(content))
        return {"url": f"{self.hub.address}/me/cats"}

    def _choose(self, content: bytes) -> Any:
        """Say which files come by themselves."""
        found = []
        for file in json.loads(content)["files"]:
            mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        return {"files": found}

    def _place(self, content: bytes) -> Any:
        """Say where large files go."""
        return {
            "transfer": "basic",
            "objects": [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/objects/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ],
        }

    def _commit(self, content: bytes) -> Any:
        for line in map(json.loads, content.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.objects[value["oid"]]
                self.hub.large.append(value["path"])
        address = f"{self.hub.address}/me/cats/commit/{'0' * 40}"
        return {"success": True, "commitOid": "0" * 40, "commitUrl": address, "pullRequestUrl": None}


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve while the `with` lasts."""
    hub = Hub()
    handler = type("Bound", (Handler,), {"hub": hub, "objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
