import Testing
@testable import ApusServer
