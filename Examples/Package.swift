// swift-tools-version: 6.2
import PackageDescription

// Programs that use Apus as a library, as a package of your own would.
let package = Package(
  name: "Examples",
  platforms: [.macOS(.v15)],
  dependencies: [.package(name: "Apus", path: "..")],
  targets: [
    .executableTarget(
      name: "generate",
      dependencies: [.product(name: "ApusEngine", package: "Apus"), .product(name: "ApusModels", package: "Apus")]),
    .executableTarget(
      name: "embed",
      dependencies: [.product(name: "ApusEngine", package: "Apus"), .product(name: "ApusModels", package: "Apus")]),
    .executableTarget(
      name: "custom-layer",
      dependencies: [
        .product(name: "ApusCompute", package: "Apus"), .product(name: "ApusEngine", package: "Apus"),
        .product(name: "ApusModels", package: "Apus"),
      ]),
  ],
  swiftLanguageModes: [.v6]
)
