import Synchronization

/// Tokens that come at a steady rate and are kept for at most a second, or until there is one.
///
/// More may be taken at once than can be kept: they are owed, and the next one waits for longer. So the long run is never
/// above the rate, whatever comes at once.
struct TokenBucket {
  /// Below 0 are owed.
  private var tokens: Double
  /// Seconds.
  private var time: Double

  /// Times of one instant may differ by this much in floating point.
  private static let tolerance = 1e-9

  init(rate: Double, at time: Double) {
    tokens = Self.capacity(rate)
    self.time = time
  }

  private static func capacity(_ rate: Double) -> Double { max(rate, 1) }

  /// Takes so many tokens, or returns the seconds after which they can be taken. `rate` is tokens a second.
  mutating func take(_ count: Int, rate: Double, at now: Double) -> Double? {
    fill(rate, now)
    let needed = min(Double(count), Self.capacity(rate))
    guard tokens + Self.tolerance >= needed else { return (needed - tokens) / rate }
    tokens -= Double(count)
    return nil
  }

  private mutating func fill(_ rate: Double, _ now: Double) {
    tokens = min(Self.capacity(rate), tokens + max(0, now - time) * rate)
    time = max(time, now)
  }

  /// Whether nothing would be lost if it were made again.
  func isFull(rate: Double, at now: Double) -> Bool {
    var later = self
    later.fill(rate, now)
    return later.tokens >= Self.capacity(rate)
  }
}

/// Counts the queries of tenants against their rates.
final class QueryMeter: Sendable {
  private struct Account {
    var bucket: TokenBucket
    var rate: Double
  }
  private struct State {
    var accounts: [String: Account] = [:]
    var refused: [String: Int] = [:]
    var pruneAt = 1024
  }
  private let state = Mutex(State())

  /// Takes queries of a tenant, or returns the seconds after which it may ask again. `rate` is queries a second.
  func take(_ count: Int, of tenant: String, rate: Double, at now: Double) -> Double? {
    state.withLock { state in
      var account = state.accounts[tenant] ?? Account(bucket: TokenBucket(rate: rate, at: now), rate: rate)
      account.rate = rate
      let wait = account.bucket.take(count, rate: rate, at: now)
      state.accounts[tenant] = account
      if wait != nil { state.refused[tenant, default: 0] += count }
      if state.accounts.count >= state.pruneAt {
        // Names are anybody's on a server without keys: those that asked long ago take no memory.
        state.accounts = state.accounts.filter { !$1.bucket.isFull(rate: $1.rate, at: now) }
        state.refused = state.refused.filter { state.accounts[$0.key] != nil }
        state.pruneAt = max(1024, 2 * state.accounts.count)
      }
      return wait
    }
  }

  /// Tenants that are remembered.
  var accountCount: Int { state.withLock { $0.accounts.count } }

  /// Queries that were refused.
  func refused(of tenant: String) -> Int { state.withLock { $0.refused[tenant] ?? 0 } }
}
