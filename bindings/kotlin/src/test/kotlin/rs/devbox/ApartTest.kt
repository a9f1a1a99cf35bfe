package rs.devbox

import kotlin.time.Duration.Companion.minutes
import kotlin.time.toJavaDuration
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows

/** What an app may want without a session, or beside it. */
class ApartTest {
    @Test
    fun `a gateway in the same process, and options of a service`() = runBlocking {
        val scene = Scene()
        val settings = GatewaySettings(catalog = "${scene.catalog}", token = TOKEN)
        Gateway.serve(settings).use { gateway ->
            val options = ServiceSettings(
                idleTimeout = 10.minutes.toJavaDuration(),
                maxConnections = 3u,
                names = listOf("site"),
                pin = "127.79.55.7",
                order = 1u,
            )
            val config = SessionConfig(
                providers = listOf(Provider.Gateway(GatewayProvider(name = "own", url = gateway.url(), token = TOKEN))),
                pool = listOf("127.79.55.0/24"),
                services = mapOf("web.backend" to options),
            )
            withSession(config) { session ->
                val address = session.resolve("site.backend").single()
                assertEquals("127.79.55.7", address)
                assertEquals("hello from web", withContext(Dispatchers.IO) { scene.fetch(address) })
            }
            gateway.stop()
            gateway.wait()
        }
        scene.close()
    }

    @Test
    fun `a cluster that cannot be used is told with its fields`() {
        val cluster = KubernetesProvider(name = "cluster", kubeconfig = "/nowhere/kubeconfig")
        val failed = assertThrows<DevboxException.Cluster> {
            runBlocking { Session.start(SessionConfig(providers = listOf(Provider.Kubernetes(cluster)))) }
        }
        assertEquals(ClusterFailure.Kubeconfig(file = "/nowhere/kubeconfig"), failed.failure)
        val keyless = cluster.copy(via = "https://gateway.example", tlsCert = "me.pem")
        val wrong = assertThrows<DevboxException.Config> {
            runBlocking { Session.start(SessionConfig(providers = listOf(Provider.Kubernetes(keyless)))) }
        }
        assertEquals("tls_key", wrong.key)
    }

    private companion object {
        const val TOKEN = "a-token-for-the-tests-0123456789"
    }
}
