"""What an app may want without a session, or beside it: a gateway, a command with names of its own, the installed helper."""

import asyncio
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

from devbox import (
    CommandEnd,
    DevboxError,
    Gateway,
    GatewayProvider,
    GatewaySettings,
    HelperFailure,
    HostsDocument,
    HostsEdit,
    HostsEntry,
    KubernetesProvider,
    Provider,
    Publish,
    ScopedCommand,
    ScopedCommandConfig,
    ServiceSettings,
    SessionConfig,
    running,
)

from scene import DEVBOX, PATIENCE, Scene
from test_session import direct


class ApartTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.addCleanup(self.scene.close)

    async def test_a_gateway_in_the_same_process(self) -> None:
        gateway = await Gateway.serve(GatewaySettings(catalog=str(self.scene.catalog), token_file=str(self.scene.token)))
        provider = GatewayProvider(name="own", url=gateway.url(), token_file=str(self.scene.token))
        async with running(SessionConfig(providers=[Provider.GATEWAY(provider)], pool=["127.79.52.0/24"])) as session:
            [address] = session.resolve("web.backend")

            def fetch() -> bytes:
                with urllib.request.urlopen(f"http://{address}:{self.scene.port}/", timeout=PATIENCE) as answer:
                    return answer.read()

            self.assertEqual(await asyncio.to_thread(fetch), b"hello from web")
        gateway.stop()
        await gateway.wait()
        with self.assertRaises(DevboxError.Token) as refused:
            await Gateway.serve(GatewaySettings(catalog=str(self.scene.catalog), token_file="/nowhere"))
        self.assertEqual(refused.exception.file, "/nowhere")

    async def test_names_and_an_address_of_a_service_are_the_apps_to_choose(self) -> None:
        config = direct(self.scene, "127.79.58.0/24")
        config.services = {"web.backend": ServiceSettings(names=["site"], pin="127.79.58.7", order=1)}
        async with running(config) as session:
            self.assertEqual(session.resolve("site.backend"), ["127.79.58.7"])
            self.assertEqual(session.resolve("web.backend"), ["127.79.58.7"])

    async def test_a_gateway_at_a_url_in_a_cluster_has_keys_of_its_own(self) -> None:
        cluster = KubernetesProvider(name="cluster", via="https://gateway.example", tls_cert="me.pem")
        with self.assertRaises(DevboxError.Config) as wrong:
            async with running(SessionConfig(providers=[Provider.KUBERNETES(cluster)])):
                pass
        self.assertEqual(wrong.exception.key, "tls_key")

    @unittest.skipIf(sys.platform != "linux", "only Linux gives a command a hosts file of its own")
    async def test_a_command_sees_names_of_its_own(self) -> None:
        entry = HostsEntry(address="127.79.53.1", names=["orders.backend"])
        hosts = HostsDocument.parse(b"127.0.0.1 localhost\n").edited(
            [HostsEdit.SET_BLOCK(tag="devbox-test", entries=[entry])]
        )
        asks = "import socket, sys; sys.exit(socket.gethostbyname('orders.backend') != '127.79.53.1')"

        def config(*argv: str) -> ScopedCommandConfig:
            return ScopedCommandConfig(argv=list(argv), hosts=hosts.render(), devbox=DEVBOX)

        command = await ScopedCommand.start(config(sys.executable, "-c", asks))
        self.assertEqual(await command.wait(), CommandEnd.EXITED(code=0))
        sleeping = await ScopedCommand.start(config("sleep", "600"))
        sleeping.update_hosts(b"127.0.0.1 localhost\n")
        seen = pathlib.Path(f"/proc/{sleeping.pid()}/root/etc/hosts").read_bytes()
        self.assertEqual(seen, b"127.0.0.1 localhost\n")
        self.assertTrue(sleeping.signal(15))
        self.assertEqual(await sleeping.wait(), CommandEnd.KILLED(signal=15))
        with self.assertRaises(DevboxError.Command) as missing:
            await ScopedCommand.start(config("no-such-command"))
        self.assertEqual((missing.exception.exit_code, missing.exception.program), (127, "no-such-command"))

    @unittest.skipIf(sys.platform != "linux" or os.geteuid() != 0, "the installed helper is root's")
    async def test_names_go_through_the_installed_helper(self) -> None:
        scene = self.scene
        folder = pathlib.Path(tempfile.mkdtemp(prefix="helper-", dir=scene.folder))
        policy = folder / "policy.toml"
        policy.write_text('users = [0]\npools = ["127.0.0.0/8"]\n')
        policy.chmod(0o600)
        socket = folder / "helper.sock"
        arguments = ["--socket", socket, "--policy", policy, "--hosts-file", scene.hosts, "--state", folder]
        said = (folder / "log").open("wb")
        self.addCleanup(said.close)
        helper = subprocess.Popen([DEVBOX, "__helper", "serve", *map(str, arguments)], stdout=said, stderr=said)
        self.addCleanup(helper.wait)
        self.addCleanup(helper.terminate)
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():
            self.assertIsNone(helper.poll(), (folder / "log").read_text())
            self.assertLess(time.monotonic(), deadline, "the helper does not listen")
            await asyncio.sleep(0.01)
        config = direct(scene, "127.79.54.0/24")
        config.publish = Publish.INSTALLED_HELPER(file=str(scene.hosts), socket=str(socket))
        async with running(config) as session:
            [address] = session.resolve("web.backend")
            self.assertIn(f"{address} web.backend", scene.hosts.read_text())
        self.assertEqual(scene.hosts.read_bytes(), scene.HOSTS)
        config.publish = Publish.INSTALLED_HELPER(file=str(scene.hosts), socket="/nowhere/helper.sock")
        with self.assertRaises(DevboxError.Helper) as missing:
            async with running(config):
                pass
        self.assertEqual(missing.exception.failure, HelperFailure.NOT_INSTALLED(socket="/nowhere/helper.sock"))


if __name__ == "__main__":
    unittest.main()
