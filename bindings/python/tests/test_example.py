"""The example app against a real PostgreSQL."""

import subprocess
import sys
import unittest

from postgres import BINARIES, COLD_PATIENCE, SERVICE, Postgres
from scene import ROOT

try:
    import psycopg
except ImportError:
    psycopg = None


@unittest.skipIf(psycopg is None, "psycopg is not installed")
@unittest.skipIf(not BINARIES, "PostgreSQL is not installed")
class ExampleTest(unittest.TestCase):
    def test_postgresql_is_queried_by_its_name(self) -> None:
        example = ROOT / "examples" / "python" / "query.py"
        with Postgres() as postgres:
            conninfo = f"port={postgres.port} user=ada dbname=postgres"
            ran = subprocess.run(
                [sys.executable, str(example), str(postgres.catalog), SERVICE, conninfo],
                capture_output=True, timeout=COLD_PATIENCE, text=True, check=False, env=postgres.environment,
            )
            shown = f"exit code {ran.returncode}\nstdout: {ran.stdout}\nstderr: {ran.stderr}\n{postgres.logged()}"
        self.assertEqual((ran.returncode, ran.stderr), (0, ""), shown)
        self.assertTrue(ran.stdout.startswith("PostgreSQL "), shown)


if __name__ == "__main__":
    unittest.main()
