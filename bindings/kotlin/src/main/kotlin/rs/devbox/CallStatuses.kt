package rs.devbox

/**
 * The structures in which a thread's calls report their outcome, one for each depth: lowering an argument is a call as well.
 *
 * Each has native memory, which costs more to come by than the calls themselves.
 */
internal class CallStatuses {
    private val statuses = ArrayList<UniffiRustCallStatus>()
    private var depth = 0

    fun take(): UniffiRustCallStatus {
        if (depth == statuses.size) statuses.add(UniffiRustCallStatus())
        return statuses[depth++]
    }

    /** One that tells a failure is not used again: its buffer is with whoever reads it. */
    fun giveBack(status: UniffiRustCallStatus) {
        depth -= 1
        if (!status.isSuccess()) statuses[depth] = UniffiRustCallStatus()
    }

    companion object {
        private val ofThreads = ThreadLocal.withInitial { CallStatuses() }

        fun ofThisThread(): CallStatuses = ofThreads.get()
    }
}
