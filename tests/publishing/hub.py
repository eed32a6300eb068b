"""A stand-in for the hub's API: what `publish` asks of it, for one user, on this machine."""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit


class StandIn(ThreadingHTTPServer):
    """Keeps the files of one repository.

    Attributes:
        account: what it says of every token
        files: contents by name; None: there is no repository
        refuses: from a part of an address to the status that it is answered with; 0: the line is cut
        asked: the addresses
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.account = {"name": "me", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        self.files, self.refuses, self.asked = None, {}, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body):
        hub, path = self.server, urlsplit(self.path).path
        hub.asked.append(path)
        status = next((status for part, status in hub.refuses.items() if part in path), 200)
        if not status:
            self.connection.close()
            return
        if path.startswith("/api/models/") and hub.files is None:
            status = 404
        said = self._say(path, body) if status == 200 else {"error": f"status {status}"}
        content = json.dumps(said).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _say(self, path, body):
        hub = self.server
        if path == "/api/whoami-v2":
            return hub.account
        if "/tree/" in path:
            return [{"type": "file", "path": name, "oid": "0", "size": len(held)} for name, held in hub.files.items()]
        if path == "/api/models/me/model":
            return {"id": "me/model"}
        if path == "/api/repos/create":
            hub.files = hub.files or {}
            return {"url": f"{hub.address}/me/model"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del hub.files[line["value"]["path"]]
            return {"commitUrl": f"{hub.address}/me/model/commit/1", "commitOid": "1" * 40}
        return {"errors": [], "warnings": []}  # of the model card's head

    def log_message(self, *_):
        pass


@contextmanager
def running():
    """A stand-in that answers inside the block."""
    with StandIn() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
