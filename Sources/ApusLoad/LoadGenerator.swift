import ApusText
import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// Sends the requests of a plan to a server, and measures the answers.
///
/// HTTP/1.1, one connection a running request, no retries: what a server refuses or breaks is counted, not repeated.
public struct LoadGenerator: Sendable {
  private let target: LoadTarget

  public init(_ target: LoadTarget) { self.target = target }

  /// Runs `plan` against the server at `url`. Throws ``LoadError``.
  ///
  /// When the surrounding task is cancelled, running requests are given up and the report tells what was measured.
  public static func run(
    _ plan: LoadPlan, url: String, apiKey: String? = nil, monitor: LoadMonitor = LoadMonitor()
  ) async throws -> LoadReport {
    try await LoadGenerator(LoadTarget(url: url, apiKey: apiKey)).run(plan, monitor: monitor)
  }

  /// As the static `run`, for one server and many plans.
  public func run(_ plan: LoadPlan, monitor: LoadMonitor = LoadMonitor()) async throws -> LoadReport {
    try plan.validate()
    return try await withClient { client in
      var template = try request(plan.route.path, method: .POST)
      template.headers.add(name: "content-type", value: "application/json")
      template.headers.add(name: "accept", value: "text/event-stream")
      let run = LoadRun(plan, client: client, template: template, monitor: monitor)
      try await run.warmUp(url: template.url.absoluteString)
      return await run.measure(url: target.base)
    }
  }

  /// The models that the server lists, in its order. Throws ``LoadError``.
  public func models() async throws -> [String] {
    try await withClient { client in
      let request = try request("models", method: .GET)
      let response: HTTPClient.Response
      do {
        response = try await client.execute(request: request, deadline: .now() + Self.patience).get()
      } catch {
        throw LoadError.unusableServer(url: request.url.absoluteString, failure: RequestFailure(error))
      }
      guard response.status == .ok else {
        throw LoadError.unusableServer(
          url: request.url.absoluteString,
          failure: .init(.status(Int(response.status.code)), response.status.reasonPhrase))
      }
      guard let value = try? JinjaValue(json: response.body.map { Array($0.readableBytesView) } ?? []),
        case .mapping(let list) = value, case .list(let entries)? = list["data"]
      else { throw LoadError.noModel(url: request.url.absoluteString) }
      return entries.compactMap { entry in
        guard case .mapping(let model) = entry, case .string(let id)? = model["id"] else { return nil }
        return id
      }
    }
  }

  /// For small answers.
  private static let patience = TimeAmount.seconds(15)

  private func request(_ route: String, method: HTTPMethod) throws -> HTTPClient.Request {
    var headers = HTTPHeaders([("user-agent", "apus-bench")])
    if let key = target.apiKey { headers.add(name: "authorization", value: "Bearer \(key)") }
    do {
      return try HTTPClient.Request(url: target.url(route), method: method, headers: headers)
    } catch {
      throw LoadError.invalid(field: "url", seen: "'\(target.base)'", expected: "an address that can be asked")
    }
  }

  private func withClient<T: Sendable>(_ body: (HTTPClient) async throws -> T) async throws -> T {
    var configuration = HTTPClient.Configuration(
      redirectConfiguration: .disallow, timeout: .init(connect: Self.patience))
    // A failed connection is a failed request, at once.
    configuration.connectionPool.retryConnectionEstablishment = false
    // No request waits for another one's connection.
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = LoadPlan.mostStreams
    // Servers commonly close idle connections after 5 s; one that is taken out of the pool just then would fail.
    configuration.connectionPool.idleTimeout = .seconds(2)
    configuration.httpVersion = .http1Only
    let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    let result: Result<T, any Error>
    do { result = .success(try await body(client)) } catch { result = .failure(error) }
    // Fails only when a request is still running, and none is.
    try? await client.shutdown()
    return try result.get()
  }
}

/// One plan while it runs.
private final class LoadRun: Sendable {
  private let plan: LoadPlan
  private let client: HTTPClient
  private let template: HTTPClient.Request
  private let monitor: LoadMonitor
  private let recorder: Mutex<LoadRecorder>
  /// Requests that a closed loop has begun.
  private let begun = Atomic<Int>(0)

  init(_ plan: LoadPlan, client: HTTPClient, template: HTTPClient.Request, monitor: LoadMonitor) {
    self.plan = plan
    self.client = client
    self.template = template
    self.monitor = monitor
    recorder = Mutex(LoadRecorder(objective: plan.objective))
  }

  func warmUp(url: String) async throws {
    monitor.warmUp()
    for place in 0..<plan.warmUp {
      let request = try prepare(-1 - place)
      let measurement = await send(request, index: -1 - place, arrival: nil, start: .now)
      switch measurement.outcome {
      case .failed(let failure): throw LoadError.unusableServer(url: url, failure: failure)
      case .interrupted: return
      case .succeeded, nil: break
      }
    }
    // What cannot be written as JSON shows in any request: later ones need not be checked.
    if plan.warmUp == 0 { _ = try plan.body(0) }
  }

  func measure(url: String) async -> LoadReport {
    let cpuStart = Self.cpuSeconds
    let start = ContinuousClock.now
    monitor.start(at: start)
    if case .closed(let streams) = plan.load {
      await withTaskGroup(of: Void.self) { group in
        for _ in 0..<streams { group.addTask { await self.sendInTurn(start: start) } }
      }
    } else if let arrivals = plan.arrivals {
      await sendWhenDue(arrivals, start: start)
    }
    return recorder.withLock {
      $0.report(
        plan, url: url, cpuSeconds: Self.cpuSeconds - cpuStart, elapsed: start.duration(to: .now),
        wasInterrupted: Task.isCancelled)
    }
  }

  /// One stream of a closed loop.
  private func sendInTurn(start: ContinuousClock.Instant) async {
    while !Task.isCancelled {
      let index = begun.wrappingAdd(1, ordering: .relaxed).oldValue
      switch plan.extent {
      case .requests(let count): if index >= count { return }
      case .duration(let duration): if start.duration(to: .now) >= duration { return }
      }
      guard let request = try? prepare(index) else { return }
      await record(request, index: index, arrival: nil, start: start)
    }
  }

  /// An open loop: nothing that happens to one request moves the next.
  private func sendWhenDue(_ arrivals: ArrivalTimes, start: ContinuousClock.Instant) async {
    await withDiscardingTaskGroup { group in
      for (index, due) in arrivals.enumerated() {
        switch plan.extent {
        case .requests(let count): if index >= count { return }
        case .duration(let duration): if due >= duration { return }
        }
        guard let request = try? prepare(index) else { return }
        do {
          try await Task.sleep(until: start + due, tolerance: .zero, clock: .continuous)
        } catch {
          return
        }
        group.addTask { await self.record(request, index: index, arrival: due, start: start) }
      }
    }
  }

  /// Made before the request is due: writing a long prompt is not the server's time.
  private func prepare(_ index: Int) throws -> HTTPClient.Request {
    var request = template
    request.body = .byteBuffer(ByteBuffer(string: try plan.body(index)))
    return request
  }

  private func record(
    _ request: HTTPClient.Request, index: Int, arrival: Duration?, start: ContinuousClock.Instant
  ) async {
    monitor.didSend()
    let measurement = await send(request, index: index, arrival: arrival, start: start)
    monitor.didEnd(measurement.outcome)
    recorder.withLock { $0.record(measurement) }
  }

  /// `arrival` nil means now.
  private func send(
    _ request: HTTPClient.Request, index: Int, arrival: Duration?, start: ContinuousClock.Instant
  ) async -> RequestMeasurement {
    let sent = start.duration(to: .now)
    let observer = StreamObserver(
      RequestMeasurement(index: index, arrival: arrival ?? sent, sent: sent), start: start, monitor: monitor)
    let task = client.execute(
      request: request, delegate: observer, deadline: .now() + .nanoseconds(plan.timeout.nanoseconds))
    await withTaskCancellationHandler {
      do { try await task.get() } catch { observer.fail(error) }
    } onCancel: {
      task.cancel()
    }
    return observer.measurement
  }

  /// Of this process, in seconds.
  private static var cpuSeconds: Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
}
