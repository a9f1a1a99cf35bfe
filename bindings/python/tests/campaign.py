"""1,000 sessions with four listeners each, and what calls and callbacks cost. `python campaign.py`: minutes, and a few figures.

Each stage runs in a process of its own: `python campaign.py calls`, `callbacks`, `lives [SESSIONS]`.
"""

import asyncio
import gc
import pathlib
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from devbox import (
    Allocator,
    DirectProvider,
    Event,
    EventListener,
    HostsDocument,
    Provider,
    Session,
    SessionConfig,
    running,
)

from scene import PATIENCE, Scene

SESSIONS = 1000
LISTENERS = 4
CALLS = 20_000
CALLBACKS = 1000
# The memory is looked at that often.
POINTS = 8
# What allocators keep, and what measuring adds.
GROWTH_KIB = 2 * 1024
ROUNDS = 10
# In seconds.
CALL_LIMIT = 10e-6


class Counting(EventListener):
    def __init__(self) -> None:
        self.events = 0
        self.ends = threading.Semaphore(0)

    def on_event(self, event: Event) -> None:
        self.events += 1

    def on_end(self) -> None:
        self.ends.release()


def resident_kib() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


async def lives(config: SessionConfig, sessions: int) -> None:
    """Starts and stops; the memory after the first quarter is that at the end."""
    told = 0
    curve = []
    for number in range(1, sessions + 1):
        session = await Session.start(config)
        listeners = [Counting() for _ in range(LISTENERS)]
        subscriptions = [session.subscribe(listener) for listener in listeners]
        await session.ready()
        await session.stop("the campaign")
        await session.wait()
        for listener in listeners:
            assert await asyncio.to_thread(listener.ends.acquire, True, PATIENCE), "a listener was not told the end"
            told += listener.events + 1
        del session, subscriptions, listeners
        if number % (sessions // POINTS) == 0:
            curve.append(resident_kib())
    print(f"{sessions} sessions, {told} callbacks, resident KiB after each eighth: {', '.join(map(str, curve))}")
    grown = curve[-1] - curve[POINTS // 4 - 1]
    assert grown < GROWTH_KIB, f"the process grew by {grown} KiB"


def cost(name: str, call: Callable[[], object], calls: int = CALLS) -> None:
    best = float("inf")
    for _ in range(ROUNDS):
        # What the thread spends: other programs have a share of the machine too.
        start = time.thread_time()
        for _ in range(calls // ROUNDS):
            call()
        best = min(best, (time.thread_time() - start) / (calls // ROUNDS))
    print(f"{name}: {best * 1e6:.1f} µs a call")
    assert best < CALL_LIMIT, f"{name} is too slow"


async def calls(config: SessionConfig) -> None:
    async with running(config) as session:
        cost("Session.id", session.id)
        cost("Session.resolve", lambda: session.resolve("web.backend"))
    pool = Allocator(["127.77.0.0/16"])
    pool.lease("dev/backend/web", 0)
    cost("Allocator.lease", lambda: pool.lease("dev/backend/web", 0))
    cost("Allocator.address", lambda: pool.address("dev/backend/web"))
    document = HostsDocument.parse(b"127.0.0.1 localhost\n")
    cost("HostsDocument.lookup", lambda: document.lookup("localhost"))


async def callbacks(config: SessionConfig) -> None:
    async with running(config) as session:
        listeners = [Counting() for _ in range(CALLBACKS)]
        subscriptions = [session.subscribe(listener) for listener in listeners]
        start = time.process_time()
        await session.stop("the campaign")
        await session.wait()
        for listener in listeners:
            assert await asyncio.to_thread(listener.ends.acquire, True, PATIENCE)
        spent = time.process_time() - start
        told = sum(listener.events + 1 for listener in listeners)
        print(f"event callback: {spent / told * 1e6:.1f} µs of CPU time each, {told} of them")
        del subscriptions


def stage(name: str, sessions: int) -> None:
    scene = Scene()
    try:
        provider = Provider.DIRECT(DirectProvider(name="local", catalog=str(scene.catalog)))
        config = SessionConfig(providers=[provider], pool=["127.79.40.0/24"])
        works = {"calls": calls, "callbacks": callbacks, "lives": lambda config: lives(config, sessions)}
        asyncio.run(works[name](config))
    finally:
        scene.close()


def main() -> int:
    if len(sys.argv) > 1:
        stage(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else SESSIONS)
        return 0
    program = str(pathlib.Path(__file__).resolve())
    return max(subprocess.run([sys.executable, program, name], check=False).returncode for name in ("calls", "callbacks", "lives"))


if __name__ == "__main__":
    sys.exit(main())
