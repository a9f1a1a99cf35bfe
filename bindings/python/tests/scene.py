"""What the tests run against: a real gateway, a service behind it, and a hosts file of their own."""

import http.server
import os
import pathlib
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEVBOX = os.environ.get("DEVBOX_BIN") or str(ROOT / "target" / "debug" / "devbox")
PATIENCE = 30.0


def own_loopback() -> tuple[str, int]:
    """A loopback address of the caller's own and a port that is free there.

    On 127.0.0.1 a port that was found free may go to anybody's outgoing connection before it is listened on.
    """
    address = f"127.{random.randrange(128, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    with socket.socket() as probe:
        probe.bind((address, 0))
        return address, probe.getsockname()[1]


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"hello from web"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


class Scene:
    """A folder with a catalog of one service, `web.backend`, a token and a hosts file; a gateway once it is started."""

    HOSTS = b"127.0.0.1 localhost\n10.0.0.9\tprinter # mine"

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="devbox-python-"))
        self.service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
        threading.Thread(target=self.service.serve_forever, daemon=True).start()
        self.port = self.service.server_address[1]
        self.catalog = self.folder / "catalog.yaml"
        self.catalog.write_text(self.catalog_text(["web"]))
        self.token = self.folder / "token"
        self.token.write_text("a-token-for-the-tests-0123456789\n")
        self.token.chmod(0o600)
        self.hosts = self.folder / "hosts"
        self.hosts.write_bytes(self.HOSTS)
        self.gateway: subprocess.Popen[bytes] | None = None
        self.gateway_address = own_loopback()
        self.said = self.folder / "gateway.log"

    @property
    def gateway_url(self) -> str:
        return "ws://{}:{}".format(*self.gateway_address)

    def catalog_text(self, names: list[str]) -> str:
        ports = f'[{{port: {self.port}, target: "127.0.0.1:{self.port}"}}]'
        services = "".join(f"  - {{name: {name}, namespace: backend, ports: {ports}}}\n" for name in names)
        return f"environment: dev\nservices:\n{services}"

    def start_gateway(self) -> None:
        listen = "{}:{}".format(*self.gateway_address)
        arguments: list[object] = ["--catalog", self.catalog, "--listen", listen, "--token-file", self.token]
        with self.said.open("ab") as said:
            self.gateway = subprocess.Popen(
                [DEVBOX, "gateway", "serve", *map(str, arguments)], stderr=said, stdout=said
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(self.gateway_address, 1).close()
                return
            except OSError:
                assert self.gateway.poll() is None, f"the gateway ended: {self.said.read_text()}"
                assert time.monotonic() < deadline, "the gateway does not listen"
                time.sleep(0.01)

    def kill_gateway(self) -> None:
        assert self.gateway is not None
        self.gateway.kill()
        self.gateway.wait()
        self.gateway = None

    def close(self) -> None:
        if self.gateway is not None:
            self.kill_gateway()
        self.service.shutdown()
        self.service.server_close()
        shutil.rmtree(self.folder)
