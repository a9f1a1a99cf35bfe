import java.sql.DriverManager
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeAll
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestInstance
import rs.devbox.DirectProvider
import rs.devbox.Provider
import rs.devbox.Session
import rs.devbox.SessionConfig

/** The services of a catalog, for as long as the tests of a class run. */
class Services(private val catalog: String) : AutoCloseable {
    private val session: Session = runBlocking {
        val provider = Provider.Direct(DirectProvider(name = "local", catalog = catalog))
        Session.start(SessionConfig(providers = listOf(provider))).also { it.ready() }
    }

    fun address(name: String): String =
        session.resolve(name).firstOrNull() ?: error("$catalog has no service $name")

    override fun close() {
        runBlocking {
            session.stop("the tests are over")
            session.wait()
        }
        session.close()
    }
}

/**
 * Queries PostgreSQL over JDBC by the name of its service. CATALOG, SERVICE (`orders.backend`), PGPORT, PGDATABASE, PGUSER and
 * PGPASSWORD are in the environment.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class OrdersTest {
    private lateinit var services: Services

    private fun given(name: String) = System.getenv(name) ?: error("$name is not set")

    @BeforeAll
    fun start() {
        services = Services(given("CATALOG"))
    }

    @AfterAll
    fun stop() = services.close()

    @Test
    fun `the database answers by its name`() {
        val url = "jdbc:postgresql://${services.address(given("SERVICE"))}:${given("PGPORT")}/${given("PGDATABASE")}"
        DriverManager.getConnection(url, given("PGUSER"), System.getenv("PGPASSWORD") ?: "").use { connection ->
            connection.createStatement().executeQuery("SELECT version()").use { rows ->
                assertTrue(rows.next() && rows.getString(1).startsWith("PostgreSQL"))
            }
        }
    }
}
