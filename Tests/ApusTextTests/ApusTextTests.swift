import Testing
@testable import ApusText
