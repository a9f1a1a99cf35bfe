// What calls and callbacks cost: CPU time, since other programs have a share of the machine too.
//
//     devbox-costs FOLDER
//
// FOLDER is an empty one of its own. Build it with `-c release`.

import Devbox
import Foundation

struct TooSlow: Error {
    let what: String
}

let callLimit = 10.0

func microseconds(_ clock: clockid_t) -> Double {
    var time = timespec()
    clock_gettime(clock, &time)
    return Double(time.tv_sec) * 1e6 + Double(time.tv_nsec) / 1e3
}

func cost(_ name: String, _ call: () throws -> Void) throws {
    var best = Double.infinity
    for _ in 0..<20 {
        let start = microseconds(CLOCK_THREAD_CPUTIME_ID)
        for _ in 0..<2_000 { try call() }
        best = min(best, (microseconds(CLOCK_THREAD_CPUTIME_ID) - start) / 2_000)
    }
    print("\(name): \(String(format: "%.1f", best)) µs a call")
    if best > callLimit { throw TooSlow(what: name) }
}

/// Counts what it is told, and says when that was the last.
final class Counting: EventListener, @unchecked Sendable {
    private(set) var told = 0
    private let ended = DispatchSemaphore(value: 0)

    func onEvent(event: Event) { told += 1 }

    func onEnd() {
        told += 1
        ended.signal()
    }

    func waitForEnd() { ended.wait() }
}

let folder = URL(fileURLWithPath: CommandLine.arguments[1])
let catalog = folder.appendingPathComponent("catalog.yaml").path
try "environment: dev\nservices:\n  - {name: web, namespace: backend, ports: [{port: 7931, target: \"127.0.0.1:9\"}]}\n"
    .write(toFile: catalog, atomically: true, encoding: .utf8)
let local = DirectProvider(name: "local", catalog: catalog)
let session = try await Session.starting(SessionConfig(providers: [.direct(local)], pool: ["127.79.57.0/24"]))
try await session.untilReady()

try cost("Session.id") { _ = session.id() }
try cost("Session.resolve") { _ = session.resolve(name: "web.backend") }
let pool = try Allocator(prefixes: ["127.77.0.0/16"])
_ = try pool.lease(key: "dev/backend/web", now: 0)
try cost("Allocator.lease") { _ = try pool.lease(key: "dev/backend/web", now: 0) }
try cost("Allocator.address") { _ = try pool.address(key: "dev/backend/web") }
let document = HostsDocument.parse(bytes: Data("127.0.0.1 localhost\n".utf8))
try cost("HostsDocument.lookup") { _ = document.lookup(name: "localhost") }

let listeners = (0..<1_000).map { _ in Counting() }
let subscriptions = try listeners.map { try session.subscribe(listener: $0) }
let start = microseconds(CLOCK_PROCESS_CPUTIME_ID)
try await session.stop(by: "the campaign")
listeners.forEach { $0.waitForEnd() }
let spent = microseconds(CLOCK_PROCESS_CPUTIME_ID) - start
let told = listeners.reduce(0) { $0 + $1.told }
print("event callback: \(String(format: "%.1f", spent / Double(told))) µs of CPU time each, \(told) of them")
withExtendedLifetime(subscriptions) {}
