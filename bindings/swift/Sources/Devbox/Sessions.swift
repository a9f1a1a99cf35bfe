import Foundation

extension Session {
    /// What happens to the session, from the call on; the first reader gets everything from the start.
    ///
    /// The stream ends with the session, or with the task that reads it. A reader that falls behind gets `.lagged` with the state
    /// in place of what it missed: nothing is buffered here.
    public func eventStream() -> AsyncStream<Event> {
        let events = self.events()
        return AsyncStream(unfolding: { await events.next() }, onCancel: { events.cancel() })
    }

    /// As `start`, and cancelled with the task that waits for it.
    public static func starting(_ config: SessionConfig) async throws -> Session {
        try await cancelledWithTask { try await Session.start(config: config, cancellation: $0) }
    }

    /// As `ready`, and cancelled with the task that waits for it.
    @discardableResult
    public func untilReady() async throws -> Status {
        try await cancelledWithTask { try await self.ready(cancellation: $0) }
    }

    /// As `wait`, and cancelled with the task that waits for it.
    public func untilEnd() async throws -> StopReason {
        try await cancelledWithTask { try await self.wait(cancellation: $0) }
    }
}

/// Passes a task's cancellation on: the generated calls do not hear of it by themselves.
private func cancelledWithTask<T: Sendable>(
    _ call: @Sendable (Cancellation) async throws -> T
) async throws -> T {
    let cancellation = Cancellation()
    return try await withTaskCancellationHandler {
        try await call(cancellation)
    } onCancel: {
        cancellation.cancel()
    }
}
