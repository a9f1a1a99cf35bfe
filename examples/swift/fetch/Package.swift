// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "devbox-fetch",
    platforms: [.macOS(.v13)],
    dependencies: [.package(path: "../../../bindings/swift")],
    // A package in a folder is known by the folder's name.
    targets: [.executableTarget(name: "devbox-fetch", dependencies: [.product(name: "Devbox", package: "swift")])]
)
