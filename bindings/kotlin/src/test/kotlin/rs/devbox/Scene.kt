package rs.devbox

import com.sun.net.httpserver.HttpServer
import java.io.File
import java.net.InetAddress
import java.net.InetSocketAddress
import java.net.ServerSocket
import java.net.Socket
import java.net.URI
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.TimeUnit
import kotlin.random.Random
import kotlin.time.Duration.Companion.seconds

/** How long anything may take. */
val PATIENCE = 30.seconds

/** The program that is the gateway and the helper. */
val DEVBOX: String = System.getenv("DEVBOX_BIN") ?: File("../../target/debug/devbox").canonicalPath

/** What the tests run against: a real gateway, a service behind it, `web.backend`, and a hosts file of their own. */
class Scene : AutoCloseable {
    private val folder: Path = Files.createTempDirectory("devbox-kotlin-")
    private val service = HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0)
    // On 127.0.0.1 a port that was found free may go to anybody's outgoing connection before it is listened on.
    private val gatewayAddress = InetAddress.getByName("127.${Random.nextInt(128, 255)}.${Random.nextInt(256)}.${Random.nextInt(1, 255)}")
    private val gatewayPort = ServerSocket(0, 1, gatewayAddress).use { it.localPort }
    private val said = folder.resolve("gateway.log").toFile()
    private val token = folder.resolve("token")
    private var gateway: Process? = null

    val port: Int get() = service.address.port
    val catalog: Path = folder.resolve("catalog.yaml")
    val hosts: Path = folder.resolve("hosts")
    val hostsBefore = "127.0.0.1 localhost\n10.0.0.9\tprinter # mine".toByteArray()

    init {
        service.createContext("/") { exchange ->
            val body = "hello from web".toByteArray()
            exchange.sendResponseHeaders(200, body.size.toLong())
            exchange.responseBody.use { it.write(body) }
        }
        service.start()
        val ports = "[{port: $port, target: \"127.0.0.1:$port\"}]"
        Files.writeString(catalog, "environment: dev\nservices:\n  - {name: web, namespace: backend, ports: $ports}\n")
        Files.writeString(token, "a-token-for-the-tests-0123456789\n")
        token.toFile().setReadable(false, false)
        token.toFile().setReadable(true, true)
        Files.write(hosts, hostsBefore)
    }

    fun startGateway() {
        val command = listOf(
            DEVBOX, "gateway", "serve", "--catalog", "$catalog", "--listen", "${gatewayAddress.hostAddress}:$gatewayPort", "--token-file", "$token",
        )
        val started = ProcessBuilder(command)
            .redirectOutput(ProcessBuilder.Redirect.appendTo(said))
            .redirectErrorStream(true)
            .start()
        gateway = started
        val deadline = System.nanoTime() + PATIENCE.inWholeNanoseconds
        while (true) {
            check(started.isAlive) { "the gateway ended with ${started.exitValue()}: ${said.readText()}" }
            try {
                Socket(gatewayAddress, gatewayPort).close()
                return
            } catch (error: java.io.IOException) {
                check(System.nanoTime() < deadline) { "the gateway does not listen: $error" }
                Thread.sleep(10)
            }
        }
    }

    fun killGateway() {
        gateway?.destroyForcibly()?.waitFor(PATIENCE.inWholeSeconds, TimeUnit.SECONDS)
        gateway = null
    }

    fun fetch(address: String): String = URI("http://$address:$port/").toURL().readText()

    fun direct(pool: String) = SessionConfig(
        providers = listOf(Provider.Direct(DirectProvider(name = "local", catalog = "$catalog"))),
        pool = listOf(pool),
    )

    fun throughGateway(pool: String) = SessionConfig(
        providers = listOf(
            Provider.Gateway(
                GatewayProvider(name = "gateway", url = "ws://${gatewayAddress.hostAddress}:$gatewayPort", tokenFile = "$token"),
            ),
        ),
        pool = listOf(pool),
        publish = Publish.HostsFile(
            file = "$hosts",
            helper = HelperProgram(program = DEVBOX, args = listOf("__helper", "--hosts-file", "$hosts", "--pool", pool)),
        ),
    )

    override fun close() {
        killGateway()
        service.stop(0)
        folder.toFile().deleteRecursively()
    }
}
