"""Brings up the services of a catalog, and queries PostgreSQL by its name.

    python query.py CATALOG NAME CONNINFO

CATALOG is a catalog file of devbox, NAME one of its services (`orders.backend`), and CONNINFO what else psycopg needs:
"port=5432 user=ada dbname=orders". The names are in this program alone, so it asks the session where the name leads and tells
psycopg both: the name, which TLS would check, and the address.
"""

import asyncio
import sys

import psycopg
from devbox import DirectProvider, Provider, SessionConfig, running


async def query(catalog: str, name: str, conninfo: str) -> str:
    config = SessionConfig(providers=[Provider.DIRECT(DirectProvider(name="local", catalog=catalog))])
    async with running(config) as session:
        addresses = session.resolve(name)
        if not addresses:
            raise SystemExit(f"{catalog} has no service {name}")
        async with await psycopg.AsyncConnection.connect(conninfo, host=name, hostaddr=addresses[0]) as connection:
            cursor = await connection.execute("SELECT version()")
            [version] = await cursor.fetchone()
            return version


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    print(asyncio.run(query(*sys.argv[1:])))
