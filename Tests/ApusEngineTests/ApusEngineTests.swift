import Testing
@testable import ApusEngine
