extension LoadedModel {
  /// The model of the first `count` layers, 1 or more, with the same parameters.
  ///
  /// For what only wants to know what those layers read: later layers would be computed for nothing.
  public func prefix(layers count: Int) throws -> LoadedModel {
    precondition((1...config.layers.count).contains(count), "\(count) of \(config.layers.count) layers")
    if count == config.layers.count { return self }
    var config = config
    config.layers.removeLast(config.layers.count - count)
    return try LoadedModel(
      name: name, architecture: architecture, config: config, tokenizer: tokenizer, chatTemplate: chatTemplate,
      fileBytes: fileBytes
    ) { specs in
      try Parameters(specs, matrix: { parameters.matrix($0.path) }, vector: { parameters.vector($0.path) })
    }
  }
}
