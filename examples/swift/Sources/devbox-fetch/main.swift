// Brings up the services of a catalog and fetches a page of one by its name:
//
//     devbox-fetch CATALOG web.backend 8080

import Devbox
import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

guard CommandLine.arguments.count == 4 else {
    print("usage: devbox-fetch CATALOG NAME PORT")
    exit(2)
}
let (catalog, name, port) = (CommandLine.arguments[1], CommandLine.arguments[2], CommandLine.arguments[3])

let provider = Provider.direct(DirectProvider(name: "local", catalog: catalog))
let session = try await Session.starting(SessionConfig(providers: [provider]))
try await session.untilReady()
guard let address = session.resolve(name: name).first else {
    print("\(catalog) has no service \(name)")
    exit(1)
}
var request = URLRequest(url: URL(string: "http://\(address):\(port)/")!)
request.setValue(name, forHTTPHeaderField: "Host")
let (body, _) = try await URLSession.shared.data(for: request)
print(String(decoding: body, as: UTF8.self))
try await session.stop(by: "the program")
_ = try await session.untilEnd()
