"""The example app against a real PostgreSQL."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

from scene import PATIENCE, ROOT

try:
    import psycopg
except ImportError:
    psycopg = None

BINARIES = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@unittest.skipIf(psycopg is None, "psycopg is not installed")
@unittest.skipIf(not BINARIES, "PostgreSQL is not installed")
class ExampleTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="devbox-postgres-"))
        self.addCleanup(shutil.rmtree, self.folder)
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        self.folder.chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        cluster = self.folder / "cluster"
        self.run_binary("initdb", "-D", cluster, "-A", "trust", "-U", "ada", "--no-sync")
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.run_binary("pg_ctl", "-D", cluster, "-w", "-l", self.folder / "log", "-o", options, "start")
        self.addCleanup(self.run_binary, "pg_ctl", "-D", cluster, "-w", "-m", "immediate", "stop")

    def run_binary(self, name: str, *arguments: object) -> None:
        command = [str(BINARIES[-1].parent / name), *map(str, arguments)]
        subprocess.run(command, user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def test_postgresql_is_queried_by_its_name(self) -> None:
        catalog = self.folder / "catalog.yaml"
        ports = f'[{{port: {self.port}, target: "127.0.0.1:{self.port}"}}]'
        catalog.write_text(f"environment: dev\nservices:\n  - {{name: orders, namespace: backend, ports: {ports}}}\n")
        example = ROOT / "examples" / "python" / "query.py"
        conninfo = f"port={self.port} user=ada dbname=postgres"
        ran = subprocess.run(
            [sys.executable, str(example), str(catalog), "orders.backend", conninfo],
            capture_output=True, timeout=PATIENCE, text=True, check=False,
        )
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        self.assertTrue(ran.stdout.startswith("PostgreSQL "), ran.stdout)


if __name__ == "__main__":
    unittest.main()
