package rs.devbox

import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.withContext

/**
 * What happens to a session, from the call on; the first reader gets everything from the start.
 *
 * The flow ends with the session and can be collected once. A collector that falls behind gets [Event.Lagged] with the state in
 * place of what it missed.
 */
fun Session.eventFlow(): Flow<Event> {
    val stream = events()
    return flow {
        stream.use {
            while (true) {
                emit(it.next() ?: break)
            }
        }
    }
}

/** Runs a block with a session that is ready, and stops it at the block's end, also where that is a failure or a cancellation. */
suspend fun <T> withSession(config: SessionConfig, block: suspend (Session) -> T): T =
    Session.start(config).use { session ->
        try {
            session.ready()
            block(session)
        } finally {
            withContext(NonCancellable) {
                session.stop("the program")
                session.wait()
            }
        }
    }

/** The native library is missing, or of another version than this module. */
class NativeLibraryException(cause: Throwable) :
    RuntimeException("the native library of devbox is missing or of another version than this module: ${cause.message}", cause)

/** Loads the native library; anything else loads it as well, with the failure that the JVM makes of it. */
fun loadDevbox(): String =
    try {
        libraryVersion()
    } catch (error: LinkageError) {
        throw NativeLibraryException(error.cause ?: error)
    } catch (error: RuntimeException) {
        throw NativeLibraryException(error)
    }
