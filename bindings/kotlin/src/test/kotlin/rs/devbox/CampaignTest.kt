package rs.devbox

import java.io.File
import java.lang.management.ManagementFactory
import java.util.concurrent.Semaphore
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test

/** 1,000 sessions with four listeners each, and what calls and callbacks cost: `mvn test -Dgroups=campaign -DexcludedGroups=`. */
@Tag("campaign")
class CampaignTest {
    private class Counting : EventListener {
        val events = AtomicInteger()
        val ends = Semaphore(0)

        override fun onEvent(event: Event) {
            events.incrementAndGet()
        }

        override fun onEnd() = ends.release()

        fun told(): Int {
            check(ends.tryAcquire(PATIENCE.inWholeSeconds, TimeUnit.SECONDS)) { "a listener was not told the end" }
            return events.get() + 1
        }
    }

    private fun residentKib(): Long {
        repeat(3) { System.gc() }
        val line = File("/proc/self/status").readLines().first { it.startsWith("VmRSS:") }
        return line.filter { it.isDigit() }.toLong()
    }

    @Test
    fun `a thousand sessions leave nothing`() = runBlocking {
        val scene = Scene()
        var told = 0
        var early = 0L
        repeat(1000) { number ->
            Session.start(scene.direct("127.79.48.0/24")).use { session ->
                val listeners = List(4) { Counting() }
                val subscriptions = listeners.map { session.subscribe(it) }
                session.ready().also { assertTrue(it.ready) }
                session.stop("the campaign")
                session.wait()
                told += listeners.sumOf { it.told() }
                subscriptions.forEach { it.close() }
            }
            // By then the JVM has compiled what it compiles.
            if (number == 500) early = residentKib()
        }
        val late = residentKib()
        scene.close()
        println("1000 sessions, $told callbacks: $early KiB after half of them, $late KiB at the end")
        assertTrue(late - early < 16 * 1024, "the process grew by ${late - early} KiB")
    }

    private fun cost(name: String, call: () -> Unit) {
        repeat(20_000) { call() }
        val best = (1..5).minOf {
            val start = System.nanoTime()
            repeat(4_000) { call() }
            (System.nanoTime() - start) / 4_000
        }
        println("$name: ${best / 1000.0} µs a call")
    }

    @Test
    fun `what calls and callbacks cost`() = runBlocking {
        val scene = Scene()
        withSession(scene.direct("127.79.49.0/24")) { session ->
            cost("Session.id") { session.id() }
            cost("Session.resolve") { session.resolve("web.backend") }
            val pool = Allocator(listOf("127.77.0.0/16"))
            pool.lease("dev/backend/web", 0uL)
            cost("Allocator.address") { pool.address("dev/backend/web") }
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
}
