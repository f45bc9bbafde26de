import Testing
@testable import ApusKernels
