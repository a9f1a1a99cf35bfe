package rs.devbox

import java.lang.management.ManagementFactory
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test

/** What calls and callbacks cost; `mvn test -Dgroups=campaign -DexcludedGroups= -DreuseForks=false`. */
@Tag("campaign")
class CostsCampaignTest {
    private fun cost(name: String, call: () -> Unit) {
        val threads = ManagementFactory.getThreadMXBean()
        // The JVM compiles meanwhile.
        repeat(50_000) { call() }
        val best = (1..20).minOf {
            // What the thread spends: other programs have a share of the machine too.
            val start = threads.currentThreadCpuTime
            repeat(2_000) { call() }
            (threads.currentThreadCpuTime - start) / 2_000
        }
        println("$name: ${best / 1000.0} µs a call")
        assertTrue(best < CALL_LIMIT_NS, "$name is too slow")
    }

    @Test
    fun `what calls cost`() = runBlocking {
        val scene = Scene()
        withSession(scene.direct("127.79.49.0/24")) { session ->
            cost("Session.id") { session.id() }
            cost("Session.resolve") { session.resolve("web.backend") }
        }
        Allocator(listOf("127.77.0.0/16")).use { pool ->
            pool.lease("dev/backend/web", 0uL)
            cost("Allocator.lease") { pool.lease("dev/backend/web", 0uL) }
            cost("Allocator.address") { pool.address("dev/backend/web") }
        }
        HostsDocument.parse("127.0.0.1 localhost\n".toByteArray()).use { document ->
            cost("HostsDocument.lookup") { document.lookup("localhost") }
        }
        scene.close()
    }

    @Test
    fun `what callbacks cost`() = runBlocking {
        val scene = Scene()
        withSession(scene.direct("127.79.49.0/24")) { session ->
            val listeners = List(1000) { Counting() }
            val subscriptions = listeners.map { session.subscribe(it) }
            val process = ManagementFactory.getOperatingSystemMXBean() as com.sun.management.OperatingSystemMXBean
            val start = process.processCpuTime
            session.stop("the campaign")
            session.wait()
            val told = listeners.sumOf { it.told() }
            println("event callback: ${(process.processCpuTime - start) / told / 1000.0} µs of CPU time each, $told of them")
            subscriptions.forEach { it.close() }
        }
        scene.close()
    }

    private companion object {
        const val CALL_LIMIT_NS = 10_000
    }
}
