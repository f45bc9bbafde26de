import Testing
@testable import ApusCompute
