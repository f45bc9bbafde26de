import ApusLoad
import ApusText
import Foundation
import Testing

@Suite struct ArrivalTests {
  @Test func poissonArrivalsHaveTheRateAndTheSpreadOfExponentialGaps() {
    let rate = 4.0
    let times = ArrivalTimes.poisson(rate: rate, seed: 7).prefix(20_000).map(\.inTestSeconds)
    let gaps = zip(times, [0] + times).map { $0 - $1 }
    #expect(gaps.allSatisfy { $0 >= 0 })
    let mean = gaps.reduce(0, +) / Double(gaps.count)
    let variance = gaps.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(gaps.count)
    // Standard errors are 0.7 % of the mean and 1 % of the deviation; the seed is fixed.
    #expect(abs(mean * rate - 1) < 0.03)
    #expect(abs(variance.squareRoot() * rate - 1) < 0.05)
    // Without memory: e⁻¹ of the gaps are above the mean.
    let above = Double(gaps.count { $0 > 1 / rate }) / Double(gaps.count)
    #expect(abs(above - exp(-1)) < 0.02)
  }

  @Test func theSeedMakesTheTimes() {
    func times(_ seed: UInt64) -> [Duration] { Array(ArrivalTimes.poisson(rate: 3, seed: seed).prefix(50)) }
    #expect(times(1) == times(1))
    #expect(times(1) != times(2))
  }

  @Test func constantArrivalsAreEquallyFarApart() {
    let times = ArrivalTimes.constant(rate: 8).prefix(5).map(\.inTestSeconds)
    #expect(times == [0, 0.125, 0.25, 0.375, 0.5])
  }
}

@Suite struct PlanTests {
  private func plan(
    _ prompts: LoadPlan.Prompts = .synthetic(tokens: .fixed(20), sharedPrefix: 0),
    output: LengthDistribution = .fixed(8), seed: UInt64 = 3
  ) -> LoadPlan {
    LoadPlan(
      model: "m", load: .closed(streams: 1), extent: .requests(1), prompts: prompts, outputTokens: output, seed: seed)
  }

  private func fields(_ plan: LoadPlan, _ index: Int) throws -> [String: Any] {
    try #require(try JSONSerialization.jsonObject(with: Data(plan.body(index).utf8)) as? [String: Any])
  }

  private func content(_ plan: LoadPlan, _ index: Int) throws -> String {
    let messages = try #require(try fields(plan, index)["messages"] as? [[String: Any]])
    #expect(messages.count == 1 && messages[0]["role"] as? String == "user")
    return try #require(messages[0]["content"] as? String)
  }

  @Test func bodiesAskForAGreedyStreamWithUsage() throws {
    let body = try fields(plan(), 0)
    #expect(body["model"] as? String == "m")
    #expect(body["stream"] as? Bool == true && body["ignore_eos"] as? Bool == true)
    #expect((body["stream_options"] as? [String: Bool]) == ["include_usage": true])
    #expect(body["temperature"] as? Double == 0 && body["max_tokens"] as? Int == 8)
    var other = plan()
    other.route = .completions
    other.ignoresEOS = false
    other.extraFields = ["cache_prompt": false, "temperature": 1, "stream": false]
    let completion = try fields(other, 0)
    #expect(completion["prompt"] is String && completion["messages"] == nil && completion["ignore_eos"] == nil)
    #expect(completion["cache_prompt"] as? Bool == false && completion["temperature"] as? Double == 1)
    // Without a stream there is nothing to measure.
    #expect(completion["stream"] as? Bool == true)
  }

  @Test func theSameSeedAndIndexMakeTheSameRequest() throws {
    let mixed = LoadPlan.Prompts.synthetic(tokens: .uniform(5...50), sharedPrefix: 4)
    for index in [-1, 0, 1, 17] {
      #expect(try plan(mixed, seed: 1).body(index) == plan(mixed, seed: 1).body(index))
      #expect(try plan(mixed, seed: 1).body(index) != plan(mixed, seed: 2).body(index))
    }
    #expect(try Set((-3..<200).map { try plan(mixed).body($0) }).count == 203)
  }

  @Test func promptsShareThePrefixAndNothingElse() throws {
    let shared = plan(.synthetic(tokens: .fixed(30), sharedPrefix: 50))
    let words = try (-1..<40).map { try content(shared, $0).split(separator: " ") }
    #expect(words.allSatisfy { $0.count == 80 })
    #expect(Set(words.map { $0.prefix(50).joined(separator: " ") }).count == 1)
    #expect(Set(words.map { $0.suffix(30).joined(separator: " ") }).count == words.count)
  }

  @Test func lengthsFollowTheirDistribution() throws {
    func lengths(_ distribution: LengthDistribution) throws -> [Int] {
      let plan = plan(output: distribution)
      return try (0..<2000).map { try #require(try fields(plan, $0)["max_tokens"] as? Int) }.sorted()
    }
    #expect(try Set(lengths(.fixed(9))) == [9])
    let uniform = try lengths(.uniform(10...30))
    #expect(uniform.first == 10 && uniform.last == 30)
    #expect(abs(Double(uniform.reduce(0, +)) / 2000 - 20) < 1)
    let logNormal = try lengths(.logNormal(median: 100, sigma: 0.5, maximum: 300))
    #expect(logNormal.allSatisfy { (1...300).contains($0) })
    #expect(abs(logNormal[1000] - 100) < 6)
    // One deviation below and above: e^±0.5.
    #expect(abs(logNormal[317] - 61) < 6 && abs(logNormal[1683] - 165) < 15)
    #expect(logNormal.last == 300)
  }

  @Test func lengthsAreReadFromText() {
    #expect(LengthDistribution(text: "64") == .fixed(64))
    #expect(LengthDistribution(text: "16:512") == .uniform(16...512))
    #expect(LengthDistribution(text: "lognormal:64:0.7:256") == .logNormal(median: 64, sigma: 0.7, maximum: 256))
    for text in [
      "", "0", "-1", "a", "5:4", "1:", ":", "1:2:3", "lognormal:64:0.7", "lognormal:64:-1:256", "lognormal:64:nan:256",
      "lognormal:300:1:256", "99999999999999999999", "16777217", "normal:1:1:1",
    ] {
      #expect(LengthDistribution(text: text) == nil, "\(text)")
    }
  }

  @Test func recordsAreSentInTurn() throws {
    let lines = """
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "max_tokens": 5}

      {"prompt": "p", "max_tokens": null}
      """
    let records = try PromptRecord.read(lines: lines, file: "f")
    #expect(records.count == 2)
    var plan = plan(.records(records))
    #expect(try fields(plan, 0)["max_tokens"] as? Int == 5)
    #expect((try fields(plan, 0)["messages"] as? [[String: String]])?.map { $0["content"] } == ["s", "u"])
    #expect(try content(plan, 1) == "p")
    #expect(try fields(plan, 1)["max_tokens"] as? Int == 8)
    #expect(try plan.body(0) == plan.body(4) && plan.body(1) == plan.body(-1))
    plan.route = .completions
    #expect(try fields(plan, 0)["prompt"] as? String == "s\nu")
  }

  @Test func badRecordsAreNamedByLine() {
    for line in [
      "{", "[]", "{}", #"{"messages": []}"#, #"{"messages": "x"}"#, #"{"prompt": 3}"#,
      #"{"prompt": "a", "messages": [1]}"#,
      #"{"prompt": "a", "max_tokens": 0}"#, #"{"prompt": "a", "max_tokens": "x"}"#,
    ] {
      #expect {
        try PromptRecord.read(lines: "{\"prompt\": \"ok\"}\n\(line)\n", file: "f")
      } throws: { error in
        guard case .malformedLine("f", 2, _, _)? = error as? LoadError else { return false }
        return true
      }
    }
    #expect(throws: LoadError.self) { try PromptRecord.read(lines: "\n \n", file: "f") }
  }

  @Test func plansThatMakeNoLoadAreRefused() throws {
    try plan().validate()
    for change: (inout LoadPlan) -> Void in [
      { $0.load = .closed(streams: 0) }, { $0.load = .poisson(rate: 0) }, { $0.load = .poisson(rate: .nan) },
      { $0.load = .constant(rate: -1) }, { $0.load = .constant(rate: .infinity) }, { $0.load = .poisson(rate: 1e-300) },
      { $0.extent = .requests(0) },
      { $0.extent = .duration(.zero) }, { $0.prompts = .records([]) }, { $0.warmUp = -1 }, { $0.timeout = .zero },
      { $0.prompts = .synthetic(tokens: .fixed(1), sharedPrefix: -1) },
      { $0.objective = ServiceObjective(timeToFirstToken: .zero) },
    ] {
      var plan = plan()
      change(&plan)
      #expect(throws: LoadError.self) { try plan.validate() }
    }
  }

  @Test func addressesMayLeaveTheVersionAway() throws {
    for (url, base) in [
      ("http://h:1", "http://h:1/v1"), ("http://h:1/", "http://h:1/v1"), ("http://h:1/v1/", "http://h:1/v1"),
      ("https://h/api/openai", "https://h/api/openai"),
    ] {
      #expect(try LoadTarget(url: url).base == base)
    }
    for url in ["", "h:1", "ftp://h", "http://", "http://h/?a=1", "http://h h"] {
      #expect(throws: LoadError.self, "\(url)") { try LoadTarget(url: url) }
    }
    #expect(throws: LoadError.self) { try LoadTarget(url: "http://h", apiKey: "a\nb") }
  }
}

@Suite struct HistogramTests {
  @Test func percentilesAreThoseOfASortedArray() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var random = TestRandom(seed: seed)
    for count in [1, 2, 3, 10, 99, 100, 101, 5000] {
      // From 100 ns to 100 s, equally often in each decade.
      let nanoseconds = (0..<count).map { _ in Int64(pow(10, Double.random(in: 2...11, using: &random))) }
      var histogram = LatencyHistogram()
      for value in nanoseconds { histogram.record(.nanoseconds(value)) }
      let sorted = nanoseconds.sorted()
      for perMille in [0, 500, 900, 950, 990, 999, 1000] {
        let percentile = Double(perMille) / 10
        // Nearest rank, in integers: 99.9 % of 5,000 is 4,995 and not a little more.
        let rank = max(1, (perMille * count + 999) / 1000)
        let expected = Double(sorted[rank - 1]) * 1e-6
        let seen = histogram.milliseconds(percentile: percentile) ?? -1
        #expect(abs(seen - expected) <= expected * 0.001, "p\(percentile) of \(count)")
      }
      let mean = Double(nanoseconds.reduce(0, +)) / Double(count) * 1e-6
      #expect(abs((histogram.summary?.mean ?? 0) / mean - 1) < 1e-9)
      #expect(histogram.summary?.count == count)
    }
  }

  @Test func nothingRecordedHasNoPercentiles() {
    var histogram = LatencyHistogram()
    #expect(histogram.summary == nil && histogram.milliseconds(percentile: 50) == nil)
    histogram.record(.nanoseconds(-5))
    #expect(histogram.summary?.max == 0)
    histogram.record(.milliseconds(3), count: 0)
    #expect(histogram.count == 1)
  }

  @Test func theTextFormEndsWithTheMaximum() throws {
    var histogram = LatencyHistogram()
    for value in 1...100 { histogram.record(.milliseconds(value)) }
    let lines = histogram.percentileDistribution.split(separator: "\n")
    #expect(lines.first?.contains("Percentile") == true)
    let last = try #require(lines.last { !$0.hasPrefix("#") })
    let cells = last.split(separator: " ")
    #expect(cells[1] == "1.000000000000" && cells[2] == "100")
    #expect(abs((Double(cells[0]) ?? 0) - 100) < 0.2)
  }
}

extension Duration {
  var inTestSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
