package rs.devbox

import java.nio.file.Files
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.ReceiveChannel
import kotlinx.coroutines.flow.produceIn
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows

class SessionTest {
    private val scene = Scene()

    @AfterEach
    fun close() = scene.close()

    private suspend fun ReceiveChannel<Event>.until(wanted: (Event) -> Boolean): Event =
        withTimeout(PATIENCE) {
            while (true) {
                val event = receive()
                if (wanted(event)) return@withTimeout event
            }
            @Suppress("UNREACHABLE_CODE")
            error("unreachable")
        }

    @Test
    fun `the whole life of a session`() = runBlocking {
        scene.startGateway()
        Session.start(scene.throughGateway("127.79.41.0/24")).use { session ->
            val events = session.eventFlow().buffer(Channel.RENDEZVOUS).produceIn(this)
            val ready = events.until { it is Event.Ready } as Event.Ready
            assertEquals("web.backend", ready.status.services.single().service)
            val address = session.resolve("web.backend").single()
            assertTrue("$address web.backend" in Files.readString(scene.hosts))
            suspend fun fetched() = withContext(Dispatchers.IO) { scene.fetch(address) }
            assertEquals("hello from web", fetched())
            scene.killGateway()
            events.until { it is Event.LinkLost || it is Event.LinkInterrupted }
            scene.startGateway()
            events.until { it is Event.LinkRestored || it is Event.LinkResumed }
            assertEquals("hello from web", fetched())
            session.stop("the test")
            assertEquals(StopReason.Requested("the test"), session.wait())
            assertArrayEquals(scene.hostsBefore, Files.readAllBytes(scene.hosts))
            assertNull(session.status())
            events.cancel()
        }
    }

    @Test
    fun `a session from YAML`() = runBlocking {
        val yaml = "providers: [{kind: direct, name: local, catalog: '${scene.catalog}'}]\npool: [127.79.42.0/24]\n"
        withSession(parseConfig(yaml)) { session ->
            assertEquals(1, session.resolve("WEB.backend.").size)
            assertEquals(emptyList<String>(), session.resolve("nobody.backend"))
        }
    }

    @Test
    fun `failures have a class and fields`() {
        val text = assertThrows<DevboxException.ConfigText> { parseConfig("providers: []\nspeed: 3\n") }
        assertEquals(2uL, text.line)
        assertThrows<DevboxException.NoProvider> { runBlocking { Session.start(SessionConfig(providers = emptyList())) } }
        val wrong = assertThrows<DevboxException.Config> { runBlocking { Session.start(scene.direct("127.79")) } }
        assertEquals("pool" to "127.79", wrong.key to wrong.value)
    }

    @Test
    fun `cancelling cancels the work`() = runBlocking {
        withSession(scene.direct("127.79.43.0/24")) { session ->
            val waiting = launch(start = CoroutineStart.UNDISPATCHED) { session.wait() }
            waiting.cancelAndJoin()
            val cancellation = Cancellation()
            cancellation.cancel()
            val cancelled = runCatching { session.wait(cancellation) }
            assertTrue(cancelled.exceptionOrNull() is DevboxException.Cancelled, "$cancelled")
            assertTrue(session.status()!!.ready)
        }
    }

    @Test
    fun `a listener may throw, block and call the session`() = runBlocking {
        Session.start(scene.direct("127.79.44.0/24")).use { session ->
            val released = CountDownLatch(1)
            val ended = CountDownLatch(1)
            val seen = mutableListOf<Event>()
            val listener = object : EventListener {
                override fun onEvent(event: Event) {
                    released.await(PATIENCE.inWholeSeconds, TimeUnit.SECONDS)
                    seen.add(event)
                    runBlocking { session.status() }
                    session.resolve("web.backend")
                    throw IllegalStateException("it throws always")
                }

                override fun onEnd() = ended.countDown()
            }
            session.subscribe(listener).use {
                // While the listener blocks, everything else goes on.
                withTimeout(PATIENCE) {
                    session.ready()
                    assertTrue(session.status()!!.ready)
                }
                released.countDown()
                session.abort("the test")
                assertTrue(ended.await(PATIENCE.inWholeSeconds, TimeUnit.SECONDS))
            }
            assertTrue(seen.any { it is Event.Ready }, "$seen")
            assertTrue(seen.any { it is Event.Stopping }, "$seen")
        }
    }

    @Test
    fun `calls from eight threads`() = runBlocking {
        withSession(scene.direct("127.79.45.0/24")) { session ->
            val expected = session.resolve("web.backend")
            val asked = List(8) {
                async(Dispatchers.IO) {
                    repeat(200) { assertEquals(expected, session.resolve("web.backend")) }
                    assertTrue(session.status()!!.ready)
                }
            }
            asked.awaitAll()
            Unit
        }
    }

    @Test
    fun `a session closed on another thread ends`() = runBlocking {
        val session = Session.start(scene.direct("127.79.46.0/24"))
        session.ready()
        val events = session.events()
        thread { session.close() }.join()
        withTimeout(PATIENCE) {
            events.use { while (it.next() != null) Unit }
        }
    }

    @Test
    fun `the log comes as records`() = runBlocking {
        val told = CountDownLatch(1)
        setLogSink(object : LogSink {
            override fun onLog(record: LogRecord) = told.countDown()
        }, LogLevel.DEBUG)
        withSession(scene.direct("127.79.47.0/24")) {
            assertTrue(withContext(Dispatchers.IO) { told.await(PATIENCE.inWholeSeconds, TimeUnit.SECONDS) })
        }
        setLogSink(null, LogLevel.ERROR)
    }

    @Test
    fun `the library says its version`() = assertEquals("0.1.0", loadDevbox())
}
