import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

/// Published layouts, written with factors of a known model, against the products of the factors.
@Suite struct ImportTests {
  /// Names of the matrices of a layer in transformers, by the end of Apus' path.
  private static let decoderNames = [
    "attention.query": "self_attn.q", "attention.key": "self_attn.k", "attention.value": "self_attn.v",
    "attention.output": "self_attn.o", "feedForward.gate": "mlp.gate", "feedForward.up": "mlp.up",
    "feedForward.down": "mlp.down",
  ]
  private static let encoderNames = [
    "attention.query": "attention.self.query", "attention.key": "attention.self.key",
    "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
    "feedForward.up": "intermediate.dense", "feedForward.down": "output.dense",
  ]

  /// A checkpoint in the making.
  private struct Written {
    var tensors: [NewTensor] = []

    mutating func add(_ name: String, _ shape: [Int], _ elements: [Float]) {
      tensors.append(
        NewTensor(name: name, shape: shape, dtype: .f32, content: .made(elements.withUnsafeBytes { Array($0) })))
    }

    mutating func add(_ name: String, _ matrix: Matrix<Float>) {
      add(name, [matrix.rows, matrix.columns], matrix.elements)
    }

    func checkpoint(_ folder: TestFolder, metadata: [String: String] = [:]) throws -> FactorCheckpoint {
      let path = folder.path + "/factors.safetensors"
      try ModelFileWriter.safetensors(tensors, metadata: metadata, to: path)
      return try FactorCheckpoint(path: path)
    }
  }

  /// Factors of every matrix of a model's layers, by `layers.0.attention.query` and so on, from its own SVD.
  private func factors(_ model: LoadedModel, rank: Int) throws -> [String: (down: Matrix<Float>, up: Matrix<Float>)] {
    var result: [String: (down: Matrix<Float>, up: Matrix<Float>)] = [:]
    for member in LinearGroup.all(of: model).flatMap(\.members) {
      let pca = try OutputPCA(of: [try model.dense(member)], in: .identity, on: testPool)
      guard case .lowRank(let factors, _) = try pca.factorise(rank: rank, on: testPool) else { continue }
      result[String(member.dropLast(".weight".count))] = (factors.down, factors.ups[0])
    }
    return result
  }

  /// The model with whole matrices in place of some.
  private func replacing(_ model: LoadedModel, _ matrices: [String: Matrix<Float>]) -> LoadedModel {
    model.with(
      parameters: model.parameters.mapMatrices { spec, old in
        guard let matrix = matrices[String(spec.path.dropLast(".weight".count))] else { return old }
        return StoredWeight(Tensor(matrix.rows, matrix.columns, matrix.elements))
      })
  }

  private func product(_ down: Matrix<Float>, _ up: Matrix<Float>) -> Matrix<Float> {
    let product = up.multiplied(by: down, on: testPool)
    return Matrix(rows: product.rows, columns: product.columns, elements: product.elements.map { Float($0) })
  }

  private func isSame(_ a: LoadedModel, _ b: LoadedModel) throws -> Bool {
    let sequences = RandomModel.sequences([1, 9, 40], seed: 3)
    func outputs(_ model: LoadedModel) throws -> [Float] {
      if model.isEncoder { return try ModelQuality.embeddings(model, sequences, threads: 1).flatMap { $0 } }
      let runner = try ModelRunner(model, RunnerOptions(threads: 1, exact: true))
      return try sequences.flatMap { ids in
        let sequence = try runner.makeSequence()
        defer { runner.release(sequence) }
        return try runner.forward([.init(sequence, ids, logits: .all)]) { logits in
          (0..<logits.rows).flatMap { Array(logits[$0]) }
        }
      }
    }
    let (x, y) = (try outputs(a), try outputs(b))
    let greatest = x.map(abs).max()!
    return zip(x, y).allSatisfy { abs($0 - $1) < 1e-4 * greatest }
  }

  /// Rows of queries and keys as transformers has them, of a model whose RoPE pairs halves.
  private func name(_ parameter: String, _ names: [String: String], _ prefix: String) -> String {
    let parts = parameter.split(separator: ".", maxSplits: 2)
    return "\(prefix).\(parts[1]).\(names[String(parts[2])]!)"
  }

  @Test(arguments: [FactorLayout.svdLLM, .asvd, .basisSharing])
  func `factors of a decoder give the product's logits`(layout: FactorLayout) throws {
    let model = try RandomModel.decoder(seed: 4)
    let known = try factors(model, rank: 20)
    var written = Written()
    for (parameter, pair) in known.sorted(by: { $0.key < $1.key }) {
      let module = name(parameter, Self.decoderNames, "model.layers")
      switch layout {
      case .svdLLM:
        written.add(module + "_u_proj.weight", pair.up)
        written.add(module + "_v_proj.weight", pair.down)
      case .asvd:
        written.add(module + "_proj.ALinear.weight", pair.up)
        written.add(module + "_proj.BLinear.weight", pair.down)
      default:
        written.add(module + "_proj.weight", pair.up)
        written.add(module + "_basis.weight", pair.down)
      }
    }
    written.add("model.layers.0.self_attn.rotary_emb.inv_freq", [8], [Float](repeating: 1, count: 8))
    let folder = TestFolder()
    let checkpoint = try written.checkpoint(folder)
    #expect(checkpoint.layout == layout)
    let small = try FactorImport(into: model, encoding: .f32, threads: 1).model(from: checkpoint)
    #expect(small.groups.allSatisfy { $0.rank == 20 } && small.groups.count == known.count)
    #expect(try isSame(small.model, replacing(model, known.mapValues { product($0.down, $0.up) })))
    // Of another model they are nothing.
    #expect(
      kind {
        _ = try FactorImport(into: try RandomModel.decoder(seed: 5), encoding: .f32, threads: 1).model(from: checkpoint)
      } == .otherSource)
    #expect(
      kind {
        _ = try FactorImport(into: try RandomModel.encoder(seed: 5), encoding: .f32, threads: 1).model(from: checkpoint)
      } != nil)
  }

  @Test func `a base whose RoPE pairs neighbours gets the rows of queries and keys in its order`() throws {
    let halves = try RandomModel.decoder(seed: 4)
    var config = halves.config as! CausalLM
    for i in config.layers.indices {
      var block = config.layers[i] as! Block
      var attention = block.attention as! Attention
      attention.qkv = RoPE(LinearQKV(), theta: 1e4, pairing: .interleaved)
      block.attention = attention
      config.layers[i] = block
    }
    func interleaved(_ matrix: Matrix<Float>) -> Matrix<Float> {
      var result = matrix
      for head in 0..<matrix.rows / 16 {
        for i in 0..<8 {
          for column in 0..<matrix.columns {
            result[head * 16 + 2 * i, column] = matrix[head * 16 + i, column]
            result[head * 16 + 2 * i + 1, column] = matrix[head * 16 + 8 + i, column]
          }
        }
      }
      return result
    }
    // The same function as `halves`, as a GGUF file has it.
    let base = try LoadedModel(
      name: "base", architecture: "test", config: config, tokenizer: halves.tokenizer
    ) { specs in
      try Parameters(
        specs,
        matrix: { spec in
          guard spec.path.hasSuffix("query.weight") || spec.path.hasSuffix("key.weight") else {
            return halves.parameters.matrix(spec.path)
          }
          let turned = interleaved(try halves.dense(spec.path))
          return StoredWeight(Tensor(turned.rows, turned.columns, turned.elements))
        }, vector: { halves.parameters.vector($0.path) })
    }
    #expect(try isSame(base, halves))
    let known = try factors(halves, rank: 20)
    var written = Written()
    for (parameter, pair) in known {
      let module = name(parameter, Self.decoderNames, "model.layers")
      written.add(module + "_u_proj.weight", pair.up)
      written.add(module + "_v_proj.weight", pair.down)
    }
    let small = try FactorImport(into: base, encoding: .f32, threads: 1).model(
      from: try written.checkpoint(TestFolder()))
    #expect(try isSame(small.model, replacing(halves, known.mapValues { product($0.down, $0.up) })))
  }

  @Test func `bases that several layers share are found under the name that was kept`() throws {
    let model = try RandomModel.decoder(seed: 4)
    let known = try factors(model, rank: 20)
    var written = Written()
    var matrices: [String: Matrix<Float>] = [:]
    var metadata: [String: String] = [:]
    for (parameter, pair) in known {
      let module = name(parameter, Self.decoderNames, "model.layers")
      let first = known[parameter.replacingOccurrences(of: "layers.1.", with: "layers.0.")]!
      // Coefficients of layer 1 on the basis of layer 0: W · basisᵀ · (basis · basisᵀ)⁻¹ is not needed, any will do.
      matrices[parameter] = product(first.down, pair.up)
      written.add(module + "_proj.weight", pair.up)
      if parameter.hasPrefix("layers.0.") {
        written.add(module + "_basis.weight", first.down)
      } else {
        metadata[module + "_basis.weight"] =
          module.replacingOccurrences(of: "layers.1.", with: "layers.0.") + "_basis.weight"
      }
    }
    let checkpoint = try written.checkpoint(TestFolder(), metadata: metadata)
    #expect(checkpoint.entries.count == known.count)
    for entry in checkpoint.entries {
      #expect(product(entry.down, entry.up) == matrices[entry.parameter])
    }
  }

  @Test func `factors of an encoder's modules bring biases and norms along`() throws {
    let model = try RandomModel.encoder(seed: 3)
    let known = try factors(model, rank: 20)
    var written = Written()
    for (parameter, pair) in known {
      let module = name(parameter, Self.encoderNames, "bert.encoder.layer")
      written.add(module + ".ALinear.weight", pair.up)
      written.add(module + ".BLinear.weight", pair.down)
      written.add(module + ".ALinear.bias", [pair.up.rows], [Float](repeating: 0.25, count: pair.up.rows))
    }
    let norm = (0..<64).map { Float($0) / 64 }
    written.add("bert.encoder.layer.1.output.LayerNorm.weight", [64], norm)
    written.add("bert.pooler.dense.weight", [2, 2], [1, 2, 3, 4])
    let small = try FactorImport(into: model, encoding: .f32, threads: 1).model(
      from: try written.checkpoint(TestFolder()))
    let whole = replacing(model, known.mapValues { product($0.down, $0.up) })
    let expected = whole.with(
      parameters: whole.parameters.mapVectors { spec, old in
        if spec.path == "layers.1.feedForwardResidual.around.weight" { return Tensor(1, 64, norm) }
        guard spec.path.hasSuffix(".bias"), known[String(spec.path.dropLast(".bias".count))] != nil else { return old }
        return Tensor(1, old.columns, [Float](repeating: 0.25, count: old.columns))
      })
    #expect(try isSame(small.model, expected))
  }

  @Test(arguments: [2, 12])
  func `factors of heads are one pair of factors, or the product where that is smaller`(rank: Int) throws {
    let model = try RandomModel.encoder(seed: 3)
    var random = TestRandom(seed: 9)
    let known = try factors(model, rank: 20)
    var written = Written()
    var matrices: [String: Matrix<Float>] = [:]
    for layer in 0..<2 {
      for (letter, part) in [("q", "query"), ("k", "key"), ("v", "value")] {
        let path = "layers.\(layer).attention.\(part)"
        let whole = try model.dense(path + ".weight")
        var (p, v, all) = ([Float](), [Float](), Matrix<Float>(zeros: 64, 64))
        for head in 0..<4 {
          let pca = try OutputPCA(of: [whole.rows(head * 16..<head * 16 + 16)], in: .identity, on: testPool)
          guard case .lowRank(let factors, _) = try pca.factorise(rank: rank, on: testPool) else { continue }
          // P is `[in, rank]`, V `[rank, head]`.
          p += factors.down.transposed.elements
          v += factors.ups[0].transposed.elements
          let block = product(factors.down, factors.ups[0])
          for i in 0..<16 { for j in 0..<64 { all[head * 16 + i, j] = block[i, j] } }
        }
        matrices[path] = all
        written.add("svd_layers.\(layer).P\(letter)", [1, 4, 64, rank], p)
        written.add("svd_layers.\(layer).V\(letter)", [1, 4, rank, 16], v)
        written.add(
          "svd_layers.\(layer).b\(letter)", [1, 4, 1, 16], model.parameters.vector(path + ".bias")!.floatArray())
      }
      for (number, part, bias) in [
        ("o", "attention.output", "bo_attn"), ("1", "feedForward.up", "b1"), ("2", "feedForward.down", "b2"),
      ] {
        let path = "layers.\(layer).\(part)"
        let pair = known[path]!
        matrices[path] = product(pair.down, pair.up)
        written.add("svd_layers.\(layer).U\(number)", pair.down.transposed)
        written.add("svd_layers.\(layer).V\(number)", pair.up.transposed)
        let values = model.parameters.vector(path + ".bias")!.floatArray()
        written.add("svd_layers.\(layer).\(bias)", [values.count], values)
      }
    }
    written.add("embeddings.LayerNorm.weight", [64], model.parameters.vector("embedding.norm.weight")!.floatArray())
    written.add("classifier.weight", [2, 64], (0..<128).map { _ in Float(random.number()) })
    let checkpoint = try written.checkpoint(TestFolder())
    #expect(checkpoint.layout == .flashSVD)
    let small = try FactorImport(into: model, encoding: .f32, threads: 1).model(from: checkpoint)
    let heads = small.groups.filter { $0.name.hasSuffix("query") }
    // 4 heads of rank 2 are rank 8, below break-even 32; of rank 12 they are 48.
    #expect(heads.allSatisfy { $0.rank == (rank == 2 ? 8 : nil) } && heads.count == 2)
    #expect(try isSame(small.model, replacing(model, matrices)))
  }

  @Test func `what is not known is said with names and layouts; pickles are not opened`() throws {
    let folder = TestFolder()
    func error(_ tensors: [(String, [Int])]) -> CompressionError? {
      var written = Written()
      for (name, shape) in tensors { written.add(name, shape, [Float](repeating: 1, count: shape.reduce(1, *))) }
      do {
        _ = try written.checkpoint(folder)
        return nil
      } catch {
        return error as? CompressionError
      }
    }
    let unknown = try #require(error([("encoder.lowrank_a", [2, 3]), ("encoder.lowrank_b", [3, 2])]))
    #expect(unknown.kind == .layout && unknown.seen.contains("encoder.lowrank_a"))
    #expect(FactorLayout.allCases.allSatisfy { unknown.expected.contains($0.rawValue) })
    #expect(
      error([
        ("model.layers.0.self_attn.q_u_proj.weight", [4, 2]), ("model.layers.0.mlp.up_proj.ALinear.weight", [4, 2]),
      ])?
      .kind == .layout)
    // Halves, ranks that do not meet, other dimensions, matrices of no known model.
    for tensors in [
      [("model.layers.0.self_attn.q_u_proj.weight", [4, 2])], [("model.layers.0.self_attn.q_v_proj.weight", [2, 4])],
      [("model.layers.0.self_attn.q_u_proj.weight", [4, 2]), ("model.layers.0.self_attn.q_v_proj.weight", [3, 4])],
      [("model.layers.0.self_attn.q_u_proj.weight", [4]), ("model.layers.0.self_attn.q_v_proj.weight", [3, 4])],
      [("transformer.h.0.attn.ALinear.weight", [4, 2]), ("transformer.h.0.attn.BLinear.weight", [2, 4])],
      [("svd_layers.0.Pq", [1, 4, 8, 2]), ("svd_layers.0.Vq", [1, 4, 3, 2])],
    ] {
      #expect(error(tensors)?.kind == .layout, "\(tensors)")
    }
    for name in ["m.pt", "pytorch_model.bin"] {
      let pickles = TestFolder()
      try Data([0x80, 2]).write(to: URL(filePath: pickles.path + "/" + name))
      for path in [pickles.path, pickles.path + "/" + name] {
        #expect { try FactorCheckpoint(path: path) } throws: { error in
          guard let error = error as? CompressionError else { return false }
          return error.kind == .pickle && error.wayOut.contains("safetensors")
        }
      }
    }
    let empty = TestFolder()
    #expect(kind { _ = try FactorCheckpoint(path: empty.path) } == .missing)
    #expect(throws: ModelFileError.self) { try FactorCheckpoint(path: "/nowhere.safetensors") }
  }
}
