import ApusEngine
import Foundation
import HTTPTypes
import Hummingbird

/// What operators and the console ask: is it up, is it ready, what is it doing. None of it waits for an engine or wakes one.
struct StatusRoutes: Sendable {
  let state: ServerState

  static let version = "0.1.0"

  func add(to router: some RouterMethods<ServerContext>) {
    router.get("health") { _, _ in try Response.json(["status": "ok"]) }
    router.get("ready") { _, _ in
      state.isDraining
        ? try Response.json(["status": "draining"], status: .serviceUnavailable)
        : try Response.json(["status": "ready"])
    }
    router.get("version") { _, _ in try Response.json(["version": Self.version]) }
    router.get("metrics") { _, _ in
      Response(
        status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
        body: .init(byteBuffer: ByteBuffer(string: metrics())))
    }
    router.get("apus/engine") { _, context in try Response.json(EngineReport(state, answers: records(for: context))) }
    router.get("apus/requests") { _, context in try Response.json(RequestReport(records(for: context))) }
  }

  /// The requests that a caller may see: without keys everybody is the same one.
  private func records(for context: ServerContext) -> [RequestRecord] {
    state.requests.records(of: state.keys == nil ? nil : context.principal)
  }

  // MARK: metrics

  /// Prometheus' text format 0.0.4, with vLLM's names beside ours so that dashboards made for it work.
  func metrics() -> String {
    var text = MetricsText()
    let all = state.engines.map { ($0.name, $0.stats) }
    func each(_ value: (EngineStats) -> Double) -> [(labels: [(String, String)], value: Double)] {
      all.map { ([("model_name", $0.0)], value($0.1)) }
    }
    let requests = all.flatMap { name, stats in
      stats.finished.sorted { $0.key < $1.key }.map {
        (labels: [("model_name", name), ("finished_reason", $0.key)], value: Double($0.value))
      }
    }
    let refusals = all.flatMap { name, stats in
      stats.refused.sorted { $0.key < $1.key }.map {
        (labels: [("model_name", name), ("reason", $0.key)], value: Double($0.value))
      }
    }
    for prefix in ["apus", "vllm"] {
      let separator = prefix == "vllm" ? ":" : "_"
      func name(_ name: String) -> String { prefix + separator + name }
      text.family(name("num_requests_running"), "gauge", "Sequences that are computed.", each { Double($0.running) })
      text.family(name("num_requests_waiting"), "gauge", "Requests in the queue.", each { Double($0.waiting) })
      text.family(
        name("kv_cache_usage_perc"), "gauge", "Share of the KV blocks that running sequences hold, 0 to 1.",
        each { $0.blocks > 0 ? Double($0.blocksUsed - $0.blocksCached) / Double($0.blocks) : 0 })
      text.family(name("prompt_tokens_total"), "counter", "Tokens of prompts.", each { Double($0.promptTokens) })
      text.family(
        name("generation_tokens_total"), "counter", "Tokens written.", each { Double($0.generatedTokens) })
      text.family(
        name("prefix_cache_queries_total"), "counter", "Prompt tokens looked up in the prefix tree.",
        each { Double($0.promptTokens) })
      text.family(
        name("prefix_cache_hits_total"), "counter", "Prompt tokens found there.", each { Double($0.cachedTokens) })
      text.family(
        name("num_preemptions_total"), "counter", "Sequences that gave up their blocks and were computed again.",
        each { Double($0.preemptions) })
      text.family(name("request_success_total"), "counter", "Answers that ended, by reason.", requests)
      text.histograms(
        name("time_to_first_token_seconds"), "From submission to the first token.",
        all.map { ($0.0, $0.1.timeToFirstToken) })
      text.histograms(
        name("inter_token_latency_seconds"), "Between two tokens of a sequence.",
        all.map { ($0.0, $0.1.interTokenLatency) })
      text.histograms(
        name("e2e_request_latency_seconds"), "From submission to the end.", all.map { ($0.0, $0.1.totalTime) })
      text.histograms(
        name("request_queue_time_seconds"), "From submission to admission.", all.map { ($0.0, $0.1.queueTime) })
      text.family(
        name("cache_config_info"), "gauge", "How the KV cache is set up.",
        all.map { model, stats in
          (
            [
              ("model_name", model), ("block_size", "16"), ("num_gpu_blocks", "0"),
              ("num_cpu_blocks", "\(stats.blocks)"), ("enable_prefix_caching", "True"),
            ], 1
          )
        })
      text.family(
        name("lora_requests_info"), "gauge", "Adapters in use.",
        [([("running_lora_adapters", ""), ("waiting_lora_adapters", ""), ("max_lora", "0")], 1)])
    }
    let counts = state.requests.counts.sorted
    text.family(
      "apus_requests_total", "counter", "Requests that ended, by interface, route and HTTP status.",
      counts.map { ($0.labels, Double($0.count)) })
    text.family(
      "apus_request_seconds_total", "counter", "Seconds that they took.", counts.map { ($0.labels, $0.seconds) })
    text.family("apus_requests_refused_total", "counter", "Requests that the engine refused, by reason.", refusals)
    if let spans = state.requests.spans {
      text.family(
        "apus_trace_requests_dropped_total", "counter", "Requests whose spans were not written.",
        [([], Double(spans.dropped))])
    }
    text.family("apus_engine_steps_total", "counter", "Steps of the engine.", each { Double($0.steps) })
    text.family(
      "apus_uptime_seconds", "gauge", "Since the server was started.",
      [([], Date().timeIntervalSince(state.started))])
    return text.text
  }
}

/// Writes metric families in Prometheus' text format.
private struct MetricsText {
  private(set) var text = ""

  mutating func family(
    _ name: String, _ type: String, _ help: String, _ samples: [(labels: [(String, String)], value: Double)]
  ) {
    if samples.isEmpty { return }
    text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    for sample in samples { line(name, sample.labels, sample.value) }
  }

  mutating func histograms(_ name: String, _ help: String, _ models: [(String, LatencyHistogram)]) {
    if models.isEmpty { return }
    text += "# HELP \(name) \(help)\n# TYPE \(name) histogram\n"
    for (model, histogram) in models {
      let label = [("model_name", model)]
      var sum = 0
      for (bound, count) in zip(LatencyHistogram.bounds, histogram.counts) {
        sum += count
        line(name + "_bucket", label + [("le", "\(bound)")], Double(sum))
      }
      line(name + "_bucket", label + [("le", "+Inf")], Double(histogram.count))
      line(name + "_sum", label, histogram.sum)
      line(name + "_count", label, Double(histogram.count))
    }
  }

  private mutating func line(_ name: String, _ labels: [(String, String)], _ value: Double) {
    let list = labels.map { "\($0.0)=\"\(Self.escaped($0.1))\"" }.joined(separator: ",")
    text += name + (list.isEmpty ? "" : "{\(list)}") + " \(value)\n"
  }

  private static func escaped(_ label: String) -> String {
    label.reduce(into: "") { result, character in
      switch character {
      case "\\": result += "\\\\"
      case "\"": result += "\\\""
      case "\n": result += "\\n"
      default: result.append(character)
      }
    }
  }
}

/// The engines' state for the console. Figures are of all callers, sequences only of those whose requests are given.
private struct EngineReport: Encodable {
  struct Sequence: Encodable {
    var id: String
    var state: String
    var prompt_tokens: Int
    var generated_tokens: Int
    var cached_tokens: Int
    var age_s: Double
  }
  struct Rates: Encodable {
    var decode: Double
    var prefill: Double
  }
  struct Model: Encodable {
    var name: String
    var state: String
    var running: Int
    var waiting: Int
    var kv_blocks_used: Int
    var kv_blocks_total: Int
    var kv_blocks_cached: Int
    var tokens_per_second: Rates
    var prefix_hit_tokens: Int
    var prompt_tokens: Int
    var generated_tokens: Int
    var preemptions: Int
    var sequences: [Sequence]
  }
  var models: [Model]
  var uptime_s: Double

  init(_ state: ServerState, answers records: [RequestRecord]) {
    uptime_s = Date().timeIntervalSince(state.started)
    let own = Set(records.flatMap(\.answerIDs))
    // Without keys also what did not come over HTTP is shown.
    func isVisible(_ sequence: EngineStats.Sequence) -> Bool { state.keys == nil || own.contains(sequence.id) }
    models = state.engines.map { engine in
      let stats = engine.stats
      let isLoaded = (engine as? OnDemandEngine)?.isLoaded ?? true
      return Model(
        name: engine.name, state: state.isDraining ? "draining" : isLoaded ? "ready" : "idle", running: stats.running,
        waiting: stats.waiting, kv_blocks_used: stats.blocksUsed - stats.blocksCached, kv_blocks_total: stats.blocks,
        kv_blocks_cached: stats.blocksCached,
        tokens_per_second: .init(decode: stats.decodeRate, prefill: stats.prefillRate),
        prefix_hit_tokens: stats.cachedTokens, prompt_tokens: stats.promptTokens,
        generated_tokens: stats.generatedTokens, preemptions: stats.preemptions,
        sequences: stats.sequences.filter(isVisible).map {
          .init(
            id: $0.id, state: $0.state.rawValue, prompt_tokens: $0.promptTokens, generated_tokens: $0.generatedTokens,
            cached_tokens: $0.cachedTokens, age_s: $0.age)
        })
    }
  }
}

/// The requests under way and those that ended last, for the console. Never what was said.
private struct RequestReport: Encodable {
  struct Entry: Encodable {
    /// The answer's id, or the request's where there is no answer.
    var id: String
    var request_id: String
    var at: String
    var state: String
    var method: String
    var route: String?
    var interface: String
    var status: Int?
    var grpc_status: String?
    var principal: String?
    var tenant: String?
    var model: String?
    var finish_reason: String?
    var error_code: String?
    var client_gone: Bool
    var prompt_tokens: Int
    var cached_tokens: Int
    var completion_tokens: Int
    var queue_ms: Double?
    var ttft_ms: Double?
    var total_ms: Double
    var age_s: Double
    var bytes: Int
  }
  var requests: [Entry]

  init(_ records: [RequestRecord]) {
    requests = records.map { record in
      Entry(
        id: record.answerID ?? record.ownID, request_id: record.id, at: record.startedAt.rfc3339,
        state: record.state.rawValue, method: record.method, route: record.route,
        interface: record.interface.rawValue, status: record.status,
        grpc_status: record.grpcStatus.map(GRPCStatus.name), principal: record.principal, tenant: record.tenant,
        model: record.model, finish_reason: record.finishReason,
        error_code: record.errorCode, client_gone: record.clientIsGone, prompt_tokens: record.promptTokens,
        cached_tokens: record.cachedTokens, completion_tokens: record.completionTokens,
        queue_ms: record.queueTime.map(RequestRecord.milliseconds),
        ttft_ms: record.firstTokenAfter.map(RequestRecord.milliseconds),
        total_ms: RequestRecord.milliseconds(record.age), age_s: (record.age * 1000).rounded() / 1000,
        bytes: record.bytes)
    }
  }
}
