// A menu-bar app for macOS that shows a session's services. UNTESTED: there was no Mac to build it on.
//
// Put it into an app target that depends on the package in bindings/swift, with its XCFramework.

import Devbox
import SwiftUI

@main
struct MenuBarApp: App {
    @StateObject private var model = SessionModel()

    var body: some Scene {
        MenuBarExtra("devbox", systemImage: model.isUp ? "network" : "network.slash") {
            Text(model.headline)
            Divider()
            ForEach(model.services, id: \.service) { service in
                Text("\(service.names.first ?? service.service)  \(service.addresses.first ?? "–")")
            }
            Divider()
            Button("Quit") {
                Task {
                    await model.stop()
                    NSApplication.shared.terminate(nil)
                }
            }
        }
    }
}

@MainActor
final class SessionModel: ObservableObject {
    @Published private(set) var services: [ServiceStatus] = []
    @Published private(set) var headline = "Starting…"
    @Published private(set) var isUp = false
    private var session: Session?
    private var following: Task<Void, Never>?

    init() {
        following = Task { await follow() }
    }

    func stop() async {
        try? await session?.stop(by: "the menu")
        _ = try? await session?.untilEnd()
        following?.cancel()
    }

    private func follow() async {
        do {
            let file = URL.homeDirectory.appending(path: ".config/devbox/session.yaml")
            let config = try parseConfig(yaml: String(contentsOf: file, encoding: .utf8))
            let session = try await Session.starting(config)
            self.session = session
            for await event in session.eventStream() {
                if let status = try await session.status() {
                    services = status.services
                    isUp = status.ready && status.providers.allSatisfy { $0.link == .up }
                }
                switch event {
                case .ready: headline = "Ready"
                case .linkLost, .linkInterrupted: headline = "Reconnecting…"
                case .linkRestored, .linkResumed: headline = "Live"
                case .stopping(let reason): headline = "Stopping: \(reason)"
                default: break
                }
            }
            headline = "Stopped"
        } catch {
            headline = error.localizedDescription
        }
    }
}
