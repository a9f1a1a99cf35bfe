"""Hosts files and addresses obey the laws that they obey in Rust."""

import pathlib
import random
import tempfile
import unittest

from devbox import Allocator, DevboxError, HostsDocument, HostsEdit, HostsEntry, HostsFile

ORDERS = [
    HostsEdit.SET_BLOCK(
        tag="devbox-demo", entries=[HostsEntry(address="127.77.0.1", names=["orders", "orders.backend"])]
    )
]
REMOVED = [HostsEdit.REMOVE_BLOCK(tag="devbox-demo")]


class HostsTest(unittest.TestCase):
    def test_any_bytes_come_back_and_a_block_comes_and_goes(self) -> None:
        seed = random.randrange(2**32)
        chance = random.Random(seed)
        pieces = [b"127.0.0.1 localhost", b"\n", b"\r\n", b"# comment", b"\t", b"\xff", b"\x00", b"10.0.0.9 printer"]
        for _ in range(200):
            content = b"".join(chance.choices(pieces, k=chance.randrange(12)))
            before = HostsDocument.parse(content)
            self.assertEqual(before.render(), content, seed)
            after = before.edited(ORDERS)
            self.assertEqual(after.lookup("ORDERS.backend."), ["127.77.0.1"], (seed, content))
            self.assertEqual(after.edited(REMOVED).render(), content, (seed, content))

    def test_a_file_is_edited_and_back(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "hosts"
            path.write_bytes(b"127.0.0.1 localhost")
            hosts = HostsFile.open(str(path))
            self.assertTrue(hosts.edit(ORDERS))
            self.assertFalse(hosts.edit(ORDERS))
            self.assertEqual(hosts.read().lookup("orders"), ["127.77.0.1"])
            self.assertTrue(hosts.edit(REMOVED))
            self.assertEqual(path.read_bytes(), b"127.0.0.1 localhost")

    def test_a_damaged_block_says_where(self) -> None:
        document = HostsDocument.parse(b"# BEGIN devbox-demo\n127.0.0.1 localhost\n")
        with self.assertRaises(DevboxError.DamagedBlock) as damaged:
            document.edited(ORDERS)
        self.assertEqual((damaged.exception.tag, damaged.exception.lines), ("devbox-demo", [1]))


class AllocatorTest(unittest.TestCase):
    def test_the_order_of_keys_does_not_matter(self) -> None:
        keys = [f"dev/backend/service-{number}" for number in range(200)]
        one, other = Allocator(["127.77.0.0/16"]), Allocator(["127.77.0.0/16"])
        self.assertEqual(one.lease_all(keys, 0), other.lease_all(keys[::-1], 0))
        address = one.lease(keys[0], 1)
        self.assertEqual((one.address(keys[0]), one.holder(address)), (address, keys[0]))
        self.assertEqual(one.release(keys[0], 2), address)
        self.assertIsNone(one.address(keys[0]))

    def test_an_exhausted_pool_says_so(self) -> None:
        pool = Allocator(["127.77.0.4/31"])
        with self.assertRaises(DevboxError.PoolExhausted) as exhausted:
            for number in range(8):
                pool.lease(f"key-{number}", 0)
        self.assertLessEqual(exhausted.exception.leased, 2)


if __name__ == "__main__":
    unittest.main()
