"""devbox sessions, hosts files and addresses.

A session gives services that run somewhere else a name and an address on this machine:

    config = parse_config(open("session.yaml").read())
    async with running(config) as session:
        address = session.resolve("orders.backend")[0]

Everything that waits is a coroutine, and cancelling it cancels the work. Objects may be dropped on any thread.
"""

import atexit
from contextlib import asynccontextmanager
from collections.abc import AsyncIterator

try:
    from ._native import devbox as _generated
    from ._native.devbox import *  # noqa: F403
    from ._native.devbox import Event, Session, SessionConfig, library_version, silence

    from ._cheaper import apply as _make_cheaper

    _make_cheaper(_generated)
    # Function by function. The generated code has this comparison, and leaves it to whoever imports it.
    _generated._uniffi_check_api_checksums(_generated._UniffiLib)
except Exception as error:
    raise ImportError(
        "the native library of the devbox package is missing or of another version than its Python code: "
        f"{error}; install the package anew"
    ) from error

__version__ = library_version()
__all__ = [*_generated.__all__, "events", "running"]

# Python ends before the process does: from then on nothing may call it.
atexit.register(silence)


def events(session: Session) -> AsyncIterator[Event]:
    """What happens to a session, from the call on; the first reader gets everything from the start.

    It ends with the session. A reader that falls behind gets ``Event.LAGGED`` with the state in place of what it missed.
    """
    stream = session.events()

    async def read() -> AsyncIterator[Event]:
        try:
            while (event := await stream.next()) is not None:
                yield event
        finally:
            stream.cancel()

    return read()


@asynccontextmanager
async def running(config: SessionConfig, by: str = "the program") -> AsyncIterator[Session]:
    """A session that is ready, and is stopped and undone at the end of the block."""
    session = await Session.start(config)
    try:
        await session.ready()
        yield session
    finally:
        await session.stop(by)
        await session.wait()
