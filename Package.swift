// swift-tools-version: 6.2
import PackageDescription

// The kernels are one source folder (Sources/KernelsV2; V3 and V4 are links to it) that is compiled once per
// instruction-set level. ApusKernels picks a level from CPUID when the process starts.
#if arch(x86_64)
  let levels: [(name: String, flags: [String])] = [
    ("KernelsV2", ["-Xcc", "-march=x86-64-v2"]),
    ("KernelsV3", ["-Xcc", "-march=x86-64-v3"]),
    ("KernelsV4", ["-Xcc", "-march=x86-64-v4", "-Xcc", "-mavx512vnni"]),
  ]
#else
  let levels: [(name: String, flags: [String])] = [("KernelsV2", [])]
#endif

// Whole-module also in debug builds: the kernels are made of small functions in many files that must be inlined, and code
// that is not (a generic of the standard library) would be shared by the levels when they are linked.
let kernelFlags = ["-Ounchecked", "-disable-batch-mode", "-whole-module-optimization", "-num-threads", "1"]
let kernels: [Target] = levels.map { level in
  .target(
    name: level.name, dependencies: ["CSIMD", "KernelInterface"],
    swiftSettings: [.unsafeFlags(kernelFlags + level.flags)],
    linkerSettings: [.linkedLibrary("m")])
}

// Tests run what users run: a release build that they can look into. It also spares them a second build of everything.
let testable: [SwiftSetting] = [.unsafeFlags(["-enable-testing"], .when(configuration: .release))]

let rooms = [
  "ApusKernels", "ApusCompute", "ApusText", "ApusTools", "ApusModels", "ApusEngine", "ApusServer", "ApusLoad",
  "ApusVectors", "ApusCollections", "ApusGRPC", "ApusCompression", "ApusCUDA",
]

let cudaKernels = [
  "common.cuh", "tile_f32.cuh", "tile_bf16.cuh", "attention_f32.cu", "attention_bf16.cu", "feed_forward_f32.cu",
  "feed_forward_bf16.cu", "linear_f32.cu", "linear_bf16.cu", "rows.cu",
]

let package = Package(
  name: "Apus",
  platforms: [.macOS(.v15)],
  products: rooms.map { .library(name: $0, targets: [$0]) } + [.executable(name: "apus", targets: ["apus"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-http2", from: "1.46.0"),
    .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
    .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0", traits: []),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.3"),
    .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.2"),
    .package(url: "https://github.com/grpc/grpc-swift-protobuf", from: "2.4.1"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    .package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.5.0"),
  ],
  targets: kernels + [
    .target(name: "CSIMD"),
    .systemLibrary(name: "CZlib", providers: [.apt(["zlib1g-dev"])]),
    .target(name: "KernelInterface"),
    .target(
      name: "ApusKernels", dependencies: ["CSIMD", "KernelInterface"] + levels.map { .byName(name: $0.name) },
      swiftSettings: testable),
    .target(name: "ApusCompute", dependencies: ["ApusKernels"], swiftSettings: testable),
    // Kernels travel as text: they are compiled for the GPU that is found, by the compiler that is found.
    .target(
      name: "ApusCUDA", dependencies: ["ApusCompute", "ApusKernels"],
      resources: cudaKernels.map { .embedInCode("Kernels/" + $0) }, swiftSettings: testable),
    // Optimised in debug too: tests live through hundreds of thousands of changes. Debug builds check exclusive access; in
    // release that would be 6 % of a query.
    .target(
      name: "ApusVectors", dependencies: ["ApusKernels", "KernelInterface"],
      swiftSettings: testable + [
        .unsafeFlags(["-O"], .when(configuration: .debug)),
        .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
      ]),
    .target(
      name: "ApusCollections",
      dependencies: [
        "ApusKernels", "ApusVectors", "CZlib", .product(name: "Crypto", package: "swift-crypto"),
        .product(name: "GRDB", package: "GRDB.swift"),
      ],
      swiftSettings: testable),
    // Protos is what Generated was made of, by generate.
    .target(
      name: "ApusGRPC",
      dependencies: [
        "ApusCollections", "ApusVectors",
        .product(name: "GRPCCore", package: "grpc-swift-2"),
        .product(name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport"),
        .product(name: "GRPCProtobuf", package: "grpc-swift-protobuf"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP2", package: "swift-nio-http2"),
        .product(name: "SwiftProtobuf", package: "swift-protobuf"),
      ],
      exclude: ["Protos", "generate"], swiftSettings: testable),
    .target(name: "ApusText", swiftSettings: testable),
    .target(name: "ApusTools", dependencies: ["ApusText"], swiftSettings: testable),
    .target(
      name: "ApusLoad",
      dependencies: [
        "ApusText",
        .product(name: "AsyncHTTPClient", package: "async-http-client"),
        .product(name: "Histogram", package: "hdrhistogram-swift"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
      ],
      swiftSettings: testable),
    .target(
      name: "ApusModels",
      dependencies: [
        "ApusCompute", "ApusText", "CZlib", "KernelInterface",
        .product(name: "Crypto", package: "swift-crypto"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "NIOSSL", package: "swift-nio-ssl"),
        .product(name: "AsyncHTTPClient", package: "async-http-client"),
      ],
      swiftSettings: testable),
    .target(
      name: "ApusCompression",
      dependencies: [
        "ApusCompute", "ApusKernels", "ApusModels", "ApusText", "KernelInterface",
        .product(name: "Crypto", package: "swift-crypto"),
      ],
      swiftSettings: testable),
    // Optimised in debug too: unspecialised SIMD code makes the sampler's tests thirty times slower.
    .target(
      name: "ApusEngine",
      dependencies: [
        "ApusKernels", "ApusModels", "ApusText", "CSIMD", "KernelInterface",
        .product(name: "Crypto", package: "swift-crypto"),
      ],
      swiftSettings: testable + [.unsafeFlags(["-O"], .when(configuration: .debug))]),
    .target(
      name: "ApusServer",
      dependencies: [
        "ApusCollections", "ApusEngine", "ApusGRPC", "ApusTools", "ApusVectors",
        .product(name: "Crypto", package: "swift-crypto"),
        .product(name: "GRDB", package: "GRDB.swift"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "HummingbirdCore", package: "hummingbird"),
        .product(name: "HummingbirdTLS", package: "hummingbird"),
        .product(name: "Logging", package: "swift-log"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOSSL", package: "swift-nio-ssl"),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
        .product(name: "UnixSignals", package: "swift-service-lifecycle"),
        .product(name: "Yams", package: "Yams"),
      ],
      resources: [.embedInCode("Console/console.html")], swiftSettings: testable),
    .executableTarget(
      name: "apus",
      dependencies: [
        "ApusCUDA", "ApusCollections", "ApusCompression", "ApusLoad", "ApusServer", "ApusVectors",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    // What a feature costs in lines, beside a framework without slots that is only compiled (Benchmarks/composition).
    .executableTarget(
      name: "composition", dependencies: ["ApusCompute", "ApusModels", "ApusText"], path: "Benchmarks/composition",
      exclude: ["Subclasses", "run.py"]),
    .target(name: "SubclassFixture", path: "Benchmarks/composition/Subclasses"),
    // Counts heap allocations by taking malloc's place in the test binary.
    .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
    // A CUDA driver in software with the kernels linked in.
    .target(
      name: "CUDAEmulator", path: "Tests/CUDAEmulator", cxxSettings: [.headerSearchPath(".")]),
    .target(name: "TestSupport", dependencies: ["ApusText"], path: "Tests/Support"),
    .testTarget(name: "ApusKernelsTests", dependencies: ["ApusKernels"], exclude: ["Fixtures"]),
    .testTarget(name: "ApusComputeTests", dependencies: ["ApusCompute"]),
    .testTarget(name: "ApusVectorsTests", dependencies: ["ApusVectors"]),
    .testTarget(
      name: "ApusCollectionsTests", dependencies: ["ApusCollections", "ApusVectors"], exclude: ["Formats/Fixtures"]),
    .testTarget(name: "ApusGRPCTests", dependencies: ["ApusCollections", "ApusGRPC"]),
    .testTarget(name: "ApusTextTests", dependencies: ["ApusText"]),
    .testTarget(name: "ApusToolsTests", dependencies: ["ApusText", "ApusTools", "TestSupport"]),
    .testTarget(
      name: "ApusLoadTests",
      dependencies: [
        "ApusLoad", "ApusText",
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
      ]),
    .testTarget(name: "ApusModelsTests", dependencies: ["ApusModels"], exclude: ["Golden"]),
    .testTarget(
      name: "ApusCompressionTests",
      dependencies: ["ApusCompression", "ApusCompute", "ApusKernels", "ApusModels", "ApusText", "TestSupport"]),
    .testTarget(
      name: "ApusCUDATests", dependencies: ["ApusCUDA", "ApusCompute", "ApusKernels", "ApusModels", "CUDAEmulator"]),
    .testTarget(
      name: "ApusEngineTests",
      dependencies: ["AllocationCounter", "ApusCompute", "ApusEngine", "ApusModels", "ApusText"]),
    .testTarget(
      name: "ApusServerTests",
      dependencies: [
        "ApusGRPC", "ApusServer", "TestSupport", .product(name: "HummingbirdTesting", package: "hummingbird"),
      ]),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)
