import Testing
@testable import ApusModels
