package rs.devbox

import java.nio.file.Files
import java.nio.file.Path
import kotlin.random.Random
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir

/** Hosts files and addresses obey the laws that they obey in Rust. */
class DocumentsTest {
    private val orders = listOf<HostsEdit>(
        HostsEdit.SetBlock("devbox-demo", listOf(HostsEntry("127.77.0.1", listOf("orders", "orders.backend")))),
    )
    private val removed = listOf<HostsEdit>(HostsEdit.RemoveBlock("devbox-demo"))

    @Test
    fun `any bytes come back, and a block comes and goes`() {
        val seed = Random.nextInt()
        val chance = Random(seed)
        val pieces = listOf("127.0.0.1 localhost", "\n", "\r\n", "# comment", "\t", "\u00ff", "\u0000", "10.0.0.9 printer")
        repeat(200) {
            val content = List(chance.nextInt(12)) { pieces.random(chance) }.joinToString("").toByteArray(Charsets.ISO_8859_1)
            val before = HostsDocument.parse(content)
            assertArrayEquals(content, before.render(), "$seed")
            val after = before.edited(orders)
            assertEquals(listOf("127.77.0.1"), after.lookup("ORDERS.backend."), "$seed")
            assertArrayEquals(content, after.edited(removed).render(), "$seed")
        }
    }

    @Test
    fun `a file is edited and back`(@TempDir folder: Path) {
        val path = folder.resolve("hosts")
        Files.writeString(path, "127.0.0.1 localhost")
        HostsFile.open("$path").use { hosts ->
            assertTrue(hosts.edit(orders))
            assertFalse(hosts.edit(orders))
            assertEquals(listOf("127.77.0.1"), hosts.read().lookup("orders"))
            assertTrue(hosts.edit(removed))
        }
        assertEquals("127.0.0.1 localhost", Files.readString(path))
    }

    @Test
    fun `the order of keys does not matter`() {
        val keys = List(200) { "dev/backend/service-$it" }
        val one = Allocator(listOf("127.77.0.0/16"))
        val other = Allocator(listOf("127.77.0.0/16"))
        assertEquals(one.leaseAll(keys, 0uL), other.leaseAll(keys.reversed(), 0uL))
        val address = one.lease(keys[0], 1uL)
        assertEquals(keys[0], one.holder(address))
        assertEquals(address, one.release(keys[0], 2uL))
    }

    @Test
    fun `an exhausted pool says so`() {
        val pool = Allocator(listOf("127.77.0.4/31"))
        assertThrows<DevboxException.PoolExhausted> { repeat(8) { pool.lease("key-$it", 0uL) } }
    }
}
