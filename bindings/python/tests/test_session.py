"""Sessions: the whole life of one against a real gateway, and everything that an app may do at the wrong moment."""

import asyncio
import gc
import pathlib
import subprocess
import sys
import threading
import unittest
import urllib.request

from devbox import (
    Cancellation,
    DevboxError,
    DirectProvider,
    Event,
    EventListener,
    GatewayProvider,
    HelperProgram,
    LogLevel,
    LogRecord,
    LogSink,
    Provider,
    Publish,
    Session,
    SessionConfig,
    StopReason,
    events,
    parse_config,
    running,
    set_log_sink,
)

from scene import DEVBOX, PATIENCE, Scene


def direct(scene: Scene, pool: str) -> SessionConfig:
    return SessionConfig(
        providers=[Provider.DIRECT(DirectProvider(name="local", catalog=str(scene.catalog)))], pool=[pool]
    )


def through_gateway(scene: Scene, pool: str) -> SessionConfig:
    gateway = GatewayProvider(
        name="gateway", url=scene.gateway_url, token_file=str(scene.token)
    )
    helper = HelperProgram(
        program=DEVBOX, args=["__helper", "--hosts-file", str(scene.hosts), "--pool", pool]
    )
    return SessionConfig(
        providers=[Provider.GATEWAY(gateway)],
        pool=[pool],
        publish=Publish.HOSTS_FILE(file=str(scene.hosts), helper=helper),
    )


def fetch(address: str, port: int) -> bytes:
    with urllib.request.urlopen(f"http://{address}:{port}/", timeout=PATIENCE) as answer:
        return answer.read()


async def until(stream: "asyncio.Future[Event]", *kinds: type) -> Event:
    """The next event of one of these kinds."""
    async with asyncio.timeout(PATIENCE):
        async for event in stream:
            if isinstance(event, kinds):
                return event
    raise AssertionError(f"the session ended without {kinds}")


class SessionTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.addCleanup(self.scene.close)

    async def test_the_whole_life_of_a_session(self) -> None:
        scene = self.scene
        scene.start_gateway()
        session = await Session.start(through_gateway(scene, "127.79.31.0/24"))
        stream = events(session)
        ready = await until(stream, Event.READY)
        self.assertEqual(ready.status.services[0].service, "web.backend")
        [address] = session.resolve("web.backend")
        self.assertIn(f"{address} web.backend", scene.hosts.read_text())
        self.assertEqual(await asyncio.to_thread(fetch, address, scene.port), b"hello from web")
        scene.kill_gateway()
        await until(stream, Event.LINK_LOST, Event.LINK_INTERRUPTED)
        scene.start_gateway()
        await until(stream, Event.LINK_RESTORED, Event.LINK_RESUMED)
        self.assertEqual(await asyncio.to_thread(fetch, address, scene.port), b"hello from web")
        await session.stop("the test")
        self.assertEqual(await session.wait(), StopReason.REQUESTED(by="the test"))
        self.assertEqual(scene.hosts.read_bytes(), scene.HOSTS)
        self.assertIsNone(await session.status())

    async def test_a_session_from_yaml(self) -> None:
        yaml = f"providers: [{{kind: direct, name: local, catalog: '{self.scene.catalog}'}}]\npool: [127.79.32.0/24]\n"
        async with running(parse_config(yaml)) as session:
            self.assertEqual(len(session.resolve("WEB.backend.")), 1)
            self.assertEqual(session.resolve("nobody.backend"), [])

    async def test_failures_have_a_class_and_fields(self) -> None:
        with self.assertRaises(DevboxError.ConfigText) as text:
            parse_config("providers: []\nspeed: 3\n")
        self.assertEqual(text.exception.line, 2)
        with self.assertRaises(DevboxError.NoProvider):
            await Session.start(SessionConfig(providers=[]))
        config = direct(self.scene, "127.79")
        with self.assertRaises(DevboxError.Config) as wrong:
            await Session.start(config)
        self.assertEqual((wrong.exception.key, wrong.exception.value), ("pool", "127.79"))

    async def test_an_unreachable_gateway_ends_the_session_with_the_reason(self) -> None:
        scene = self.scene
        scene.start_gateway()
        scene.token.write_text("another-token-0123456789-0123456789\n")
        other = scene.folder / "other"
        other.write_text("a-token-that-is-not-the-gateways-0123\n")
        other.chmod(0o600)
        gateway = GatewayProvider(name="g", url=scene.gateway_url, token_file=str(other))
        session = await Session.start(SessionConfig(providers=[Provider.GATEWAY(gateway)], pool=["127.79.33.0/24"]))
        with self.assertRaises(DevboxError.Stopped) as stopped:
            await session.ready()
        self.assertIsInstance(stopped.exception.reason, StopReason.REFUSED)

    async def test_cancelling_cancels_the_work(self) -> None:
        async with running(direct(self.scene, "127.79.34.0/24")) as session:
            waiting = asyncio.create_task(session.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            cancellation = Cancellation()
            waiting = asyncio.create_task(session.wait(cancellation))
            await asyncio.sleep(0)
            cancellation.cancel()
            with self.assertRaises(DevboxError.Cancelled):
                await waiting
            self.assertTrue((await session.status()).ready)

    async def test_a_listener_may_throw_block_and_call_the_session(self) -> None:
        session = await Session.start(direct(self.scene, "127.79.35.0/24"))
        released, ended = threading.Event(), threading.Event()
        seen: list[Event] = []

        class Difficult(EventListener):
            def on_event(self, event: Event) -> None:
                released.wait(PATIENCE)
                seen.append(event)
                asyncio.run(session.status())
                session.resolve("web.backend")
                raise ValueError("it throws always")

            def on_end(self) -> None:
                ended.set()

        subscription = session.subscribe(Difficult())
        # While the listener blocks, everything else goes on.
        async with asyncio.timeout(PATIENCE):
            await session.ready()
            self.assertTrue((await session.status()).ready)
        released.set()
        await session.abort("the test")
        self.assertTrue(await asyncio.to_thread(ended.wait, PATIENCE))
        self.assertTrue(any(event.is_READY() for event in seen), seen)
        self.assertTrue(any(event.is_STOPPING() for event in seen), seen)
        subscription.cancel()

    async def test_calls_from_eight_threads(self) -> None:
        async with running(direct(self.scene, "127.79.36.0/24")) as session:
            expected = session.resolve("web.backend")

            def ask() -> None:
                for _ in range(200):
                    assert session.resolve("web.backend") == expected
                assert asyncio.run(session.status()).ready

            await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(8)))

    async def test_a_session_dropped_on_another_thread_ends(self) -> None:
        held = [await Session.start(direct(self.scene, "127.79.37.0/24"))]
        await held[0].ready()
        stream = held[0].events()

        def drop() -> None:
            held.clear()
            gc.collect()

        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
        async with asyncio.timeout(PATIENCE):
            while await stream.next() is not None:
                pass

    async def test_the_log_comes_as_records(self) -> None:
        lines: list[LogRecord] = []
        told = threading.Event()

        class Sink(LogSink):
            def on_log(self, record: LogRecord) -> None:
                lines.append(record)
                told.set()

        set_log_sink(Sink(), LogLevel.DEBUG)
        self.addCleanup(set_log_sink, None, LogLevel.ERROR)
        async with running(direct(self.scene, "127.79.38.0/24")):
            self.assertTrue(await asyncio.to_thread(told.wait, PATIENCE))
        self.assertTrue(lines[0].target)


class ProcessTest(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.addCleanup(self.scene.close)

    def test_a_program_that_stops_nothing_ends_well(self) -> None:
        program = f"""
import asyncio, devbox
class Listener(devbox.EventListener):
    def on_event(self, event): pass
    def on_end(self): pass
async def main():
    config = devbox.parse_config("providers: [{{kind: direct, name: l, catalog: '{self.scene.catalog}'}}]\\npool: [127.79.39.0/24]")
    session = await devbox.Session.start(config)
    await session.ready()
    return session, session.subscribe(Listener())
kept = asyncio.run(main())
print("over")
"""
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)
        self.assertEqual((ran.returncode, ran.stdout, ran.stderr), (0, b"over\n", b""))

    def test_a_program_that_ends_right_after_its_session_ends_well(self) -> None:
        # The thread that woke the event loop last may still be at it when Python ends: often so, if threads give way at once.
        program = f"""
import asyncio, sys, devbox
sys.setswitchinterval(1e-6)
async def main():
    config = devbox.parse_config("providers: [{{kind: direct, name: l, catalog: '{self.scene.catalog}'}}]\\npool: [127.79.39.0/24]")
    async with devbox.running(config):
        pass
asyncio.run(main())
"""
        for _ in range(20):
            ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)
            self.assertEqual((ran.returncode, ran.stdout, ran.stderr), (0, b"", b""))

    def test_a_library_of_another_version_is_said_so(self) -> None:
        import devbox

        package = pathlib.Path(devbox.__file__).parent
        copy = self.scene.folder / "devbox"
        (copy / "_native").mkdir(parents=True)
        for file in package.glob("*.py"):
            (copy / file.name).write_bytes(file.read_bytes())
        for file in (package / "_native").iterdir():
            if file.suffix == ".py":
                text = file.read_text()
                text = text.replace("checksum_method_session_resolve() != ", "checksum_method_session_resolve() != 1 + ")
                (copy / "_native" / file.name).write_text(text)
            elif file.is_file():
                (copy / "_native" / file.name).symlink_to(file)
        ran = subprocess.run(
            [sys.executable, "-c", "import devbox"], capture_output=True, timeout=PATIENCE, check=False,
            cwd=self.scene.folder, text=True,
        )
        self.assertEqual(ran.returncode, 1)
        self.assertIn("ImportError: the native library of the devbox package is missing or of another version", ran.stderr)


if __name__ == "__main__":
    unittest.main()
