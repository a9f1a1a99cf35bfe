"""1,000 sessions with four listeners each, and what calls and callbacks cost. `python campaign.py`: minutes, and a few figures."""

import asyncio
import gc
import resource
import sys
import threading
import time
from collections.abc import Callable

from devbox import Allocator, DirectProvider, Event, EventListener, Provider, Session, SessionConfig, running

from scene import PATIENCE, Scene

SESSIONS = 1000
LISTENERS = 4
CALLS = 20_000
CALLBACKS = 1000
# What allocators keep after the first sessions, and what measuring adds.
GROWTH_KIB = 6 * 1024


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


async def lives(config: SessionConfig) -> None:
    """Starts and stops; the memory after the first tenth is that at the end."""
    told = 0
    early = 0
    for number in range(SESSIONS):
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
        if number == SESSIONS // 10:
            early = resident_kib()
    late = resident_kib()
    print(f"{SESSIONS} sessions, {told} callbacks: {early} KiB after a tenth, {late} KiB at the end")
    assert late - early < GROWTH_KIB, "the process grew"


def cost(name: str, call: Callable[[], object], calls: int = CALLS) -> None:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls // 5):
            call()
        best = min(best, (time.perf_counter() - start) / (calls // 5))
    print(f"{name}: {best * 1e6:.1f} µs a call")


async def costs(config: SessionConfig) -> None:
    async with running(config) as session:
        cost("Session.id", session.id)
        cost("Session.resolve", lambda: session.resolve("web.backend"))
        pool = Allocator(["127.77.0.0/16"])
        pool.lease("dev/backend/web", 0)
        cost("Allocator.address", lambda: pool.address("dev/backend/web"))
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


def main() -> int:
    scene = Scene()
    try:
        provider = Provider.DIRECT(DirectProvider(name="local", catalog=str(scene.catalog)))
        config = SessionConfig(providers=[provider], pool=["127.79.40.0/24"])
        asyncio.run(costs(config))
        asyncio.run(lives(config))
    finally:
        scene.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
