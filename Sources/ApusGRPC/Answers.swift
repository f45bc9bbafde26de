import ApusCollections
import ApusVectors

/// What the store answers, as messages.

extension WireCollection {
  init(_ collection: VectorCollection) {
    let config = collection.config
    self.init()
    name = config.name
    dimension = UInt32(config.vectors.dim)
    metric =
      switch config.vectors.metric {
      case .l2: .l2
      case .ip: .ip
      case .cosine: .cosine
      }
    quantizer =
      switch config.vectors.quantizer {
      case .none: .none
      case .sq8: .sq8
      case .rabitq: .rabitq
      }
    if let model = config.embeddingModel { embeddingModel = model }
    if let digest = collection.weightsDigest { embeddingWeights = digest }
    indexedFields = config.indexedFields
  }
}

extension WirePointID {
  init(_ key: PointKey) {
    self.init()
    id =
      switch key {
      case .integer(let number): .integer(number)
      case .text(let text): .text(text)
      }
  }
}

extension WireVisiblePoint {
  init(_ point: VisiblePoint) {
    self.init()
    id = WirePointID(point.key)
    if let value = point.owner { owner = value }
    if let value = point.vector { vector = value }
    if let value = point.text { text = value }
    if let value = point.payload { payload = value }
    if let value = point.expiresAt { expiresAt = Int64(value) }
  }
}

extension WireSearchResponse {
  init(_ found: [Hit]) {
    self.init()
    hits = found.map { hit in
      .with {
        $0.point = WireVisiblePoint(hit.point)
        if let distance = hit.distance { $0.distance = distance }
        $0.score = hit.score
      }
    }
  }
}

extension WireTenant {
  init(_ stats: TenantStats) {
    self.init()
    tenant = stats.tenant
    state =
      switch stats.state {
      case .active: .active
      case .inactive: .inactive
      case .offloaded: .offloaded
      }
    if let value = stats.quotas.vectors { quota = UInt64(value) }
    if let value = stats.quotas.bytes { byteQuota = UInt64(value) }
    if let value = stats.quotas.queries { queryQuota = value }
    groups = stats.groups
    owned = UInt64(stats.owned)
    held = UInt64(stats.held)
    visible = UInt64(stats.visible)
    bytes = .with {
      $0.vectors = UInt64(stats.bytes.vectors)
      $0.payloads = UInt64(stats.bytes.payloads)
      $0.grants = UInt64(stats.bytes.grants)
      $0.total = UInt64(stats.bytes.total)
    }
    refusedQueries = UInt64(stats.refusedQueries)
    if let counts = stats.searches {
      searches = .with {
        $0.count = UInt64(counts.count)
        $0.scanned = UInt64(counts.scanned)
        $0.microseconds = UInt64(counts.microseconds)
      }
    }
  }
}

extension WireCollectionStats {
  init(_ stats: VectorStats, _ size: CollectionBytes) {
    self.init()
    vectors = UInt64(stats.vectors)
    deleted = UInt64(stats.deleted)
    tenants = UInt64(stats.tenants)
    grants = UInt64(stats.grants)
    clusters = UInt64(stats.clusters)
    bytes = .with {
      $0.vectors = UInt64(size.vectors)
      $0.index = UInt64(size.index)
      $0.payloads = UInt64(size.payloads)
      $0.total = UInt64(size.total)
    }
  }
}
