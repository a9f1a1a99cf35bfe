// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "devbox-fetch",
    platforms: [.macOS(.v13)],
    dependencies: [.package(name: "Devbox", path: "../../bindings/swift")],
    targets: [.executableTarget(name: "devbox-fetch", dependencies: ["Devbox"])]
)
