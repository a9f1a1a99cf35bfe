"""A PostgreSQL of one's own, and a catalog that has it as `orders.backend`.

    python postgres.py COMMAND...

runs a command beside one, with CATALOG, SERVICE, PGPORT, PGUSER and PGDATABASE in its environment.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from scene import own_loopback

BINARIES = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
SERVICE = "orders.backend"
# Programs of a cold machine are read from the disk first.
COLD_PATIENCE = 180


class Postgres:
    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="devbox-postgres-"))
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        self.folder.chmod(0o755)
        # Neither the locale nor a PostgreSQL that the caller's environment names has a say.
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))
        }
        self.address, self.port = own_loopback()
        self.log = self.folder / "log"
        self.cluster = self.folder / "cluster"
        self.catalog = self.folder / "catalog.yaml"
        ports = f'[{{port: {self.port}, target: "{self.address}:{self.port}"}}]'
        self.catalog.write_text(f"environment: dev\nservices:\n  - {{name: orders, namespace: backend, ports: {ports}}}\n")

    def __enter__(self) -> "Postgres":
        try:
            self._run("initdb", "-A", "trust", "-U", "ada", "--no-sync", "--no-locale", "-E", "UTF8")
            options = f"-p {self.port} -k {self.folder} -c listen_addresses={self.address}"
            self._run("pg_ctl", "-w", "-t", COLD_PATIENCE, "-l", self.log, "-o", options, "start")
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._run("pg_ctl", "-w", "-t", COLD_PATIENCE, "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(BINARIES[-1].parent / name), "-D", str(self.cluster), *map(str, arguments)]
        said = self.folder / f"{name}.said"
        # A file: what pg_ctl starts would keep a pipe open.
        with said.open("wb") as output:
            ran = subprocess.run(
                command, user=self.user, cwd=self.folder, stdout=output, stderr=output, check=False,
                timeout=2 * COLD_PATIENCE, env=self.environment,
            )
        if ran.returncode != 0:
            raise RuntimeError(f"{command} ended with {ran.returncode}: {said.read_text()}{self.logged()}")

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def main() -> int:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    with Postgres() as postgres:
        environment = postgres.environment | {
            "CATALOG": str(postgres.catalog),
            "SERVICE": SERVICE,
            "PGPORT": str(postgres.port),
            "PGUSER": "ada",
            "PGDATABASE": "postgres",
        }
        return subprocess.run(sys.argv[1:], check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
