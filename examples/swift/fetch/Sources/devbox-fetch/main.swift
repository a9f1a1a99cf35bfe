// Brings up the services of a session and fetches a page of one by its name:
//
//     devbox-fetch session.yaml web.backend 8080

import Devbox
import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

guard CommandLine.arguments.count == 4 else {
    print("usage: devbox-fetch SESSION.yaml NAME PORT")
    exit(2)
}
let (file, name, port) = (CommandLine.arguments[1], CommandLine.arguments[2], CommandLine.arguments[3])

let config = try parseConfig(yaml: String(contentsOfFile: file, encoding: .utf8))
let session = try await Session.starting(config)
try await session.untilReady()
guard let address = session.resolve(name: name).first else {
    print("\(file) has no service \(name)")
    exit(1)
}
var request = URLRequest(url: URL(string: "http://\(address):\(port)/")!)
request.setValue(name, forHTTPHeaderField: "Host")
let (body, _) = try await URLSession.shared.data(for: request)
print(String(decoding: body, as: UTF8.self))
try await session.stop(by: "the program")
_ = try await session.untilEnd()
