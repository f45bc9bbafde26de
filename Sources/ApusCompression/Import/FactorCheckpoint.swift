import ApusCompute
import ApusModels
import Foundation

/// A published low-rank checkpoint: its factors by the parameter that they stand for.
public struct FactorCheckpoint {
  /// Factors of one matrix, in its authors' order of rows.
  struct Entry {
    /// E.g. `layers.3.attention.query`.
    var parameter: String
    var down: Matrix<Float>
    var up: Matrix<Float>
    var bias: [Float]?
  }

  public let path: String
  public let layout: FactorLayout
  var entries: [Entry] = []
  /// What is not low-rank, by path of the parameter: `[rows, columns]`, or a vector as one row.
  var others: [String: Matrix<Float>] = [:]

  private let files: [SafetensorsFile]
  private let places: [String: Int]

  /// Reads a safetensors file, or a folder of them.
  ///
  /// Throws `ModelFileError` for files that are none, and `CompressionError`: `layout` for names of no known layout and for
  /// factors without their other half, `pickle` for PyTorch's own files, which run code when they are read.
  public init(path: String, layout: FactorLayout? = nil) throws {
    self.path = path
    files = try Self.files(path)
    var places: [String: Int] = [:]
    for (i, file) in files.enumerated() {
      for name in file.tensorNames { places[name] = i }
    }
    self.places = places
    self.layout = try layout ?? FactorLayout.found(in: Array(places.keys), path: path)
    var used: Set<String> = []
    switch self.layout {
    case .svdLLM:
      try pairs(
        &used, up: { name in Self.replaced(name, "_u_proj.weight", "_proj") },
        down: { $0.replacingOccurrences(of: "_u_proj.weight", with: "_v_proj.weight") }, bias: { _ in nil })
    case .asvd:
      try pairs(
        &used, up: { name in Self.replaced(name, ".ALinear.weight", "") },
        down: { $0.replacingOccurrences(of: ".ALinear.weight", with: ".BLinear.weight") },
        bias: { $0.replacingOccurrences(of: ".ALinear.weight", with: ".ALinear.bias") })
    case .basisSharing:
      let known = self
      try pairs(
        &used,
        up: { name in
          guard let module = Self.replaced(name, "_proj.weight", "_proj") else { return nil }
          return known.contains(Self.basis(name)) ? module : nil
        }, down: Self.basis, bias: { $0.replacingOccurrences(of: ".weight", with: ".bias") })
      // The same bases once more, outside the layers.
      used.formUnion(places.keys.filter { $0.contains("_basis.") })
    case .flashSVD: try flashSVD(&used)
    }
    for name in places.keys.sorted() where !used.contains(name) && !PublishedNames.isIgnored(name) {
      try readOther(name)
    }
    guard !entries.isEmpty else { throw unknown("no factors as \(self.layout.rawValue) has them") }
  }

  // MARK: files

  private static let pickles = ["pt", "pth", "bin", "pkl", "ckpt"]

  private static func files(_ path: String) throws -> [SafetensorsFile] {
    var isFolder: ObjCBool = false
    _ = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
    guard isFolder.boolValue else {
      if pickles.contains(URL(filePath: path).pathExtension.lowercased()) { throw pickle(path) }
      return [try SafetensorsFile(path: path)]
    }
    let names = try FileManager.default.contentsOfDirectory(atPath: path).sorted()
    let weights = names.filter { $0.hasSuffix(".safetensors") }
    if weights.isEmpty,
      let other = names.first(where: { pickles.contains(URL(filePath: $0).pathExtension.lowercased()) })
    {
      throw pickle(path + "/" + other)
    }
    guard !weights.isEmpty else {
      throw CompressionError(
        kind: .missing, what: path, seen: "no .safetensors file in the folder", expected: "one at least")
    }
    return try weights.map { try SafetensorsFile(path: path + "/" + $0) }
  }

  private static func pickle(_ path: String) -> CompressionError {
    CompressionError(
      kind: .pickle, what: path, seen: "a pickle of PyTorch, which runs code when it is read",
      expected: "a safetensors file",
      wayOut: "where you trust it: python -c 'import torch, safetensors.torch as s; m = torch.load(\"FILE\", "
        + "weights_only=False); s.save_model(m[\"model\"], \"factors.safetensors\")', or save_file for a state dict")
  }

  // MARK: tensors

  /// Where a name lies. Tensors that share memory are written once; the metadata says under which other names they go.
  private func place(_ name: String) -> (file: SafetensorsFile, name: String)? {
    if let i = places[name] { return (files[i], name) }
    for file in files {
      if let kept = file.metadata[name], file.contains(kept) { return (file, kept) }
    }
    return nil
  }

  private func contains(_ name: String) -> Bool { place(name) != nil }

  private func unknown(_ seen: String, _ name: String? = nil) -> CompressionError {
    CompressionError(
      kind: .layout, what: name.map { "\(path), tensor '\($0)'" } ?? path, seen: seen,
      expected: "the names and shapes of \(layout.rawValue)",
      wayOut: "known layouts: " + FactorLayout.allCases.map(\.rawValue).joined(separator: ", "))
  }

  private func numbers(_ name: String) throws -> (shape: [Int], elements: [Float]) {
    guard let place = place(name) else { throw unknown("no tensor of that name", name) }
    let raw = try place.file.tensor(place.name)
    let elements = Tensor(raw).floatArray()
    guard elements.allSatisfy(\.isFinite) else {
      throw CompressionError(
        kind: .notFinite, what: "\(path), tensor '\(name)'", seen: "NaN or infinity", expected: "finite numbers")
    }
    return (raw.shape, elements)
  }

  private func matrix(_ name: String, transposed: Bool = false) throws -> Matrix<Float> {
    let (shape, elements) = try numbers(name)
    guard shape.count == 2 else { throw unknown("shape \(shape)", name) }
    let matrix = Matrix(rows: shape[0], columns: shape[1], elements: elements)
    return transposed ? matrix.transposed : matrix
  }

  private static func replaced(_ name: String, _ suffix: String, _ other: String) -> String? {
    name.hasSuffix(suffix) ? name.dropLast(suffix.count) + other : nil
  }

  private static func basis(_ coefficients: String) -> String {
    coefficients.replacingOccurrences(of: "_proj.weight", with: "_basis.weight")
  }

  private func parameter(_ module: String, _ name: String) throws -> String {
    guard let path = PublishedNames.parameter(of: module) else {
      throw unknown("a matrix of no model that Apus knows", name)
    }
    return path
  }

  private mutating func append(_ parameter: String, down: Matrix<Float>, up: Matrix<Float>, bias: [Float]?) throws {
    guard up.columns == down.rows, up.columns > 0 else {
      throw unknown("up [\(up.rows), \(up.columns)], down [\(down.rows), \(down.columns)]", parameter)
    }
    entries.append(Entry(parameter: parameter, down: down, up: up, bias: bias))
  }

  /// Two matrices, each under a name of its own.
  private mutating func pairs(
    _ used: inout Set<String>, up module: (String) -> String?, down: (String) -> String, bias: (String) -> String?
  ) throws {
    for name in places.keys.sorted() {
      guard let module = module(name) else { continue }
      let (downName, biasName) = (down(name), bias(name))
      used.formUnion([name, downName])
      var values: [Float]?
      if let biasName, contains(biasName) {
        used.insert(biasName)
        values = try numbers(biasName).elements
      }
      try append(try parameter(module, name), down: try matrix(downName), up: try matrix(name), bias: values)
    }
    if let half = places.keys.sorted().first(where: {
      layout == .basisSharing ? false : isHalf($0) && !used.contains($0)
    }) {
      throw unknown("a factor without its other half", half)
    }
  }

  private func isHalf(_ name: String) -> Bool { name.hasSuffix("_v_proj.weight") || name.hasSuffix(".BLinear.weight") }

  private mutating func flashSVD(_ used: inout Set<String>) throws {
    let layers = Set(
      places.keys.compactMap { name -> Int? in
        let parts = name.split(separator: ".")
        return parts.count > 2 && parts[0] == "svd_layers" ? Int(parts[1]) : nil
      })
    for layer in layers.sorted() {
      func name(_ part: String) -> String { "svd_layers.\(layer).\(part)" }
      func vector(_ part: String) throws -> [Float]? {
        used.insert(name(part))
        return contains(name(part)) ? try numbers(name(part)).elements : nil
      }
      for (letter, part) in [("q", "query"), ("k", "key"), ("v", "value")] {
        used.formUnion([name("P\(letter)"), name("V\(letter)")])
        let (down, up) = try heads(name("P\(letter)"), name("V\(letter)"))
        try append("layers.\(layer).attention.\(part)", down: down, up: up, bias: try vector("b\(letter)"))
      }
      for (number, part, bias) in [
        ("o", "attention.output", "bo_attn"), ("1", "feedForward.up", "b1"), ("2", "feedForward.down", "b2"),
      ] {
        used.formUnion([name("U\(number)"), name("V\(number)")])
        try append(
          "layers.\(layer).\(part)", down: try matrix(name("U\(number)"), transposed: true),
          up: try matrix(name("V\(number)"), transposed: true), bias: try vector(bias))
      }
      for (norm, part) in [("ln1", "attentionResidual.around"), ("ln2", "feedForwardResidual.around")] {
        for kind in ["weight", "bias"] {
          guard let values = try vector("\(norm).\(kind)") else { continue }
          others["layers.\(layer).\(part).\(kind)"] = Matrix(rows: 1, columns: values.count, elements: values)
        }
      }
    }
    // The last layer's norm once more.
    used.formUnion(["norm.weight", "norm.bias"])
  }

  /// Factors of each head as those of the whole matrix: down is the heads' on top of each other, up their blocks along the
  /// diagonal.
  private func heads(_ downName: String, _ upName: String) throws -> (Matrix<Float>, Matrix<Float>) {
    let (p, v) = (try numbers(downName), try numbers(upName))
    let (ps, vs) = (Array(p.shape.suffix(3)), Array(v.shape.suffix(3)))
    guard ps.count == 3, vs.count == 3, ps[0] == vs[0], ps[2] == vs[1],
      p.elements.count == ps.reduce(1, *), v.elements.count == vs.reduce(1, *)
    else { throw unknown("shapes \(p.shape) and \(v.shape)", downName) }
    let (heads, inputs, rank, size) = (ps[0], ps[1], ps[2], vs[2])
    var down = Matrix<Float>(zeros: heads * rank, inputs)
    var up = Matrix<Float>(zeros: heads * size, heads * rank)
    for head in 0..<heads {
      for r in 0..<rank {
        for i in 0..<inputs { down[head * rank + r, i] = p.elements[(head * inputs + i) * rank + r] }
        for j in 0..<size { up[head * size + j, head * rank + r] = v.elements[(head * rank + r) * size + j] }
      }
    }
    return (down, up)
  }

  private mutating func readOther(_ name: String) throws {
    let parts = name.split(separator: ".")
    guard let kind = parts.last, kind == "weight" || kind == "bias" else {
      throw unknown("a tensor of no use here", name)
    }
    let path = try parameter(parts.dropLast().joined(separator: "."), name) + "." + kind
    let (shape, elements) = try numbers(name)
    guard shape.count == 1 || shape.count == 2 else { throw unknown("shape \(shape)", name) }
    others[path] = Matrix(rows: shape.count == 2 ? shape[0] : 1, columns: shape.last!, elements: elements)
  }
}
