// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "kernel-bench",
  platforms: [.macOS(.v15)],
  dependencies: [.package(name: "Apus", path: "../..")],
  targets: [
    .executableTarget(name: "kernel-bench", dependencies: [.product(name: "ApusKernels", package: "Apus")])
  ],
  swiftLanguageModes: [.v6]
)
