package rs.devbox

import java.io.File
import java.util.concurrent.Semaphore
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test

/** Counts what it is told. */
class Counting : EventListener {
    private val events = AtomicInteger()
    private val ends = Semaphore(0)

    override fun onEvent(event: Event) {
        events.incrementAndGet()
    }

    override fun onEnd() = ends.release()

    /** Waits for the end; how often it was called. */
    fun told(): Int {
        check(ends.tryAcquire(PATIENCE.inWholeSeconds, TimeUnit.SECONDS)) { "a listener was not told the end" }
        return events.get() + 1
    }
}

/** 1,000 sessions with four listeners each; `mvn test -Dgroups=campaign -DexcludedGroups= -DreuseForks=false`. */
@Tag("campaign")
class LivesCampaignTest {
    private fun residentKib(): Long {
        repeat(3) { System.gc() }
        val line = File("/proc/self/status").readLines().first { it.startsWith("VmRSS:") }
        return line.filter { it.isDigit() }.toLong()
    }

    @Test
    fun `a thousand sessions leave nothing`() = runBlocking {
        val scene = Scene()
        var told = 0
        val curve = mutableListOf<Long>()
        for (number in 1..SESSIONS) {
            Session.start(scene.direct("127.79.48.0/24")).use { session ->
                val listeners = List(4) { Counting() }
                val subscriptions = listeners.map { session.subscribe(it) }
                session.ready().also { assertTrue(it.ready) }
                session.stop("the campaign")
                session.wait()
                told += listeners.sumOf { it.told() }
                subscriptions.forEach { it.close() }
            }
            if (number % (SESSIONS / POINTS) == 0) curve.add(residentKib())
        }
        scene.close()
        println("$SESSIONS sessions, $told callbacks, resident KiB after each eighth: ${curve.joinToString()}")
        // By the half of them the JVM has compiled what it compiles.
        val grown = curve.last() - curve[POINTS / 2 - 1]
        assertTrue(grown < GROWTH_KIB, "the process grew by $grown KiB")
    }

    private companion object {
        val SESSIONS = Integer.getInteger("devbox.sessions", 1000)
        const val POINTS = 8
        const val GROWTH_KIB = 16 * 1024
    }
}
