// swift-tools-version:5.9
import Foundation
import PackageDescription

// On Apple systems the library comes as an XCFramework. Elsewhere it is linked from the folder in DEVBOX_LIBRARY, or from where
// the system looks.
#if os(Linux)
let native: Target = .systemLibrary(name: "DevboxFFI", path: "Sources/DevboxFFI")
let folder = ProcessInfo.processInfo.environment["DEVBOX_LIBRARY"]
let linking: [LinkerSetting] = folder.map { [.unsafeFlags(["-L", $0, "-Xlinker", "-rpath", "-Xlinker", $0])] } ?? []
#else
let native: Target = .binaryTarget(name: "DevboxFFI", path: "DevboxFFI.xcframework")
let linking: [LinkerSetting] = []
#endif

let package = Package(
    name: "Devbox",
    platforms: [.macOS(.v13)],
    products: [.library(name: "Devbox", targets: ["Devbox"])],
    targets: [
        native,
        .target(name: "Devbox", dependencies: ["DevboxFFI"], linkerSettings: linking + [.linkedLibrary("devbox_ffi", .when(platforms: [.linux]))]),
        .executableTarget(name: "devbox-scenario", dependencies: ["Devbox"], path: "Tests/Scenario"),
        .executableTarget(name: "devbox-costs", dependencies: ["Devbox"], path: "Tests/Costs"),
    ]
)
