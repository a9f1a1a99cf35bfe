// The whole life of a session against a real gateway: the same scenario as in the tests of the Python and Kotlin packages.
//
//     devbox-scenario DEVBOX FOLDER
//
// DEVBOX is the program that is gateway and helper; FOLDER is an empty one of its own.

import Devbox
import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

struct Failed: Error {
    let what: String
}

func check(_ holds: Bool, _ what: String) throws {
    if !holds { throw Failed(what: what) }
}

/// A process that ends with this one.
final class Running {
    let process = Process()

    init(_ program: String, _ arguments: [String]) throws {
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.standardError = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        try process.run()
    }

    func kill() {
        Foundation.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }
}

func until(_ events: inout AsyncStream<Event>.Iterator, _ wanted: (Event) -> Bool) async throws -> Event {
    while let event = await events.next() {
        if wanted(event) { return event }
    }
    throw Failed(what: "the session ended before the event came")
}

let devbox = CommandLine.arguments[1]
let folder = URL(fileURLWithPath: CommandLine.arguments[2])
let (gatewayPort, port) = (Int(CommandLine.arguments[3])!, Int(CommandLine.arguments[4])!)
let pool = "127.79.51.0/24"
let catalog = folder.appendingPathComponent("catalog.yaml").path
let token = folder.appendingPathComponent("token").path
let hosts = folder.appendingPathComponent("hosts").path
let before = "127.0.0.1 localhost\n10.0.0.9\tprinter # mine"
let target = "[{port: \(port), target: \"127.0.0.1:\(port)\"}]"
try "environment: dev\nservices:\n  - {name: web, namespace: backend, ports: \(target)}\n"
    .write(toFile: catalog, atomically: true, encoding: .utf8)
try "a-token-for-the-tests-0123456789\n".write(toFile: token, atomically: true, encoding: .utf8)
try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: token)
try before.write(toFile: hosts, atomically: true, encoding: .utf8)

let serve = ["gateway", "serve", "--catalog", catalog, "--listen", "127.0.0.1:\(gatewayPort)", "--token-file", token]
var gateway = try Running(devbox, serve)
let helper = HelperProgram(program: devbox, args: ["__helper", "--hosts-file", hosts, "--pool", pool])
let provider = GatewayProvider(name: "gateway", url: "ws://127.0.0.1:\(gatewayPort)", tokenFile: token)
let config = SessionConfig(
    providers: [.gateway(provider)], pool: [pool], publish: .hostsFile(file: hosts, helper: helper),
    services: ["web.backend": ServiceSettings(names: ["site"], order: 1)])

let session = try await Session.starting(config)
var events = session.eventStream().makeAsyncIterator()
_ = try await until(&events) { if case .ready = $0 { true } else { false } }
let address = session.resolve(name: "web.backend")[0]
try check(try String(contentsOfFile: hosts, encoding: .utf8).contains("\(address) web.backend"), "the name is not published")
try check(session.resolve(name: "site.backend") == [address], "the name that the app gave is not its own")
func fetch() async throws -> String {
    let (body, _) = try await URLSession.shared.data(from: URL(string: "http://\(address):\(port)/")!)
    return String(decoding: body, as: UTF8.self)
}
try check(try await fetch() == "hello from web", "the fetch by name")
gateway.kill()
_ = try await until(&events) { switch $0 { case .linkLost, .linkInterrupted: true; default: false } }
gateway = try Running(devbox, serve)
_ = try await until(&events) { switch $0 { case .linkRestored, .linkResumed: true; default: false } }
try check(try await fetch() == "hello from web", "the fetch after the restart")

let waiting = Task { try await session.untilEnd() }
waiting.cancel()
do {
    _ = try await waiting.value
    throw Failed(what: "a cancelled wait went on")
} catch DevboxError.Cancelled {}

try await session.stop(by: "the scenario")
try check(try await session.untilEnd() == .requested(by: "the scenario"), "the reason")
try check(try String(contentsOfFile: hosts, encoding: .utf8) == before, "the hosts file as before")
gateway.kill()
print("the scenario holds")
