import ApusEngine
import ApusText

/// Turns the parts of an answer into the events and objects of the Responses API: a state machine without I/O.
///
/// A whole response is `object` after the last part.
struct ResponseWriter: Sendable {
  /// One event of the stream.
  struct Event: Sendable {
    var name: String
    var value: JinjaValue
  }

  private enum OpenItem {
    case message(id: String, text: String, logProbabilities: [JinjaValue])
    case call(id: String, callID: String, name: String, arguments: String)
  }

  /// The response as it stands, with the last state that an event has told.
  private(set) var object: JinjaValue
  /// Whether the answer has ended.
  private(set) var isFinished = false
  private let tokenizer: any Tokenizer
  private let newID: @Sendable (String) -> String
  private var output: [JinjaValue] = []
  private var open: OpenItem?
  private var sequence = 0

  /// `created` is in seconds since 1970; `newID` makes an item's id with a prefix.
  init(
    id: String, created: Int, model: String, request: ResponseRequest, tokenizer: any Tokenizer,
    newID: @escaping @Sendable (String) -> String = RandomID.make
  ) {
    self.tokenizer = tokenizer
    self.newID = newID
    let options = request.options
    object = [
      "id": .string(id), "object": "response", "created_at": .integer(created), "status": "in_progress",
      "background": false, "error": .none, "incomplete_details": .none,
      "instructions": .optional(request.instructions), "max_output_tokens": .optional(options.maxTokens),
      "model": .string(model), "output": [], "parallel_tool_calls": .boolean(request.echo.parallelToolCalls),
      "previous_response_id": .optional(request.previousResponseID),
      "prompt_cache_key": .optional(request.promptCacheKey), "reasoning": ["effort": .none, "summary": .none],
      "service_tier": "default", "store": .boolean(request.store), "temperature": .float(options.sampling.temperature),
      "text": ["format": request.echo.format], "tool_choice": request.echo.toolChoice, "tools": request.echo.tools,
      "top_logprobs": .integer(options.logProbabilities ?? 0),
      "top_p": .float(options.sampling.topP == .leastNonzeroMagnitude ? 0 : options.sampling.topP),
      "truncation": "disabled", "usage": .none, "user": .optional(request.echo.user), "metadata": request.echo.metadata,
    ]
  }

  // MARK: parts

  /// The events that a part causes, in order. Those of `finished` end with the terminal event.
  mutating func events(for part: AnswerPart) -> [Event] {
    switch part {
    case .started:
      return [event("response.created", ["response": object]), event("response.in_progress", ["response": object])]
    case .prompt: return []
    case .text(let text, let reports): return write(text, reports.map(entry))
    case .callBegan(_, let id, let name):
      var events = close("completed")
      let item = newID("fc_")
      open = .call(id: item, callID: id, name: name, arguments: "")
      let call = ResponseItems.call(id: item, callID: id, name: name, arguments: "", status: "in_progress")
      events.append(event("response.output_item.added", ["output_index": index, "item": call]))
      return events
    case .callArguments(_, let json):
      guard case .call(let id, let callID, let name, let arguments) = open else { return [] }
      open = .call(id: id, callID: callID, name: name, arguments: arguments + json)
      return [
        event(
          "response.function_call_arguments.delta",
          ["item_id": .string(id), "output_index": index, "delta": .string(json)])
      ]
    case .callEnded: return close("completed")
    case .finished(let end): return finish(end)
    }
  }

  /// The events of an answer that broke, ending with the terminal one.
  mutating func fail(_ error: OpenAIError) -> [Event] {
    isFinished = true
    object = object.setting("status", "failed").setting("output", .list(output))
      .setting("error", ["code": "server_error", "message": .string(error.message)])
    return [event("response.failed", ["response": object])]
  }

  private var index: JinjaValue { .integer(output.count) }

  private mutating func event(_ name: String, _ fields: JinjaMapping) -> Event {
    var all: JinjaMapping = ["type": .string(name), "sequence_number": .integer(sequence)]
    for (key, value) in zip(fields.keys, fields.values) { all[key] = value }
    sequence += 1
    return Event(name: name, value: .mapping(all))
  }

  private mutating func write(_ text: String, _ entries: [JinjaValue]) -> [Event] {
    var events: [Event] = []
    if case .message = open {} else { events = openMessage() }
    guard case .message(let id, let before, let known) = open else { return events }
    open = .message(id: id, text: before + text, logProbabilities: known + entries)
    events.append(
      event(
        "response.output_text.delta",
        [
          "item_id": .string(id), "output_index": index, "content_index": 0, "delta": .string(text),
          "logprobs": .list(entries),
        ]))
    return events
  }

  private mutating func openMessage() -> [Event] {
    var events = close("completed")
    let id = newID("msg_")
    open = .message(id: id, text: "", logProbabilities: [])
    let message = ResponseItems.message(id: id, status: "in_progress", content: [])
    events.append(event("response.output_item.added", ["output_index": index, "item": message]))
    events.append(
      event(
        "response.content_part.added",
        [
          "item_id": .string(id), "output_index": index, "content_index": 0, "part": ResponseItems.outputText(""),
        ]))
    return events
  }

  /// Ends the open item, if there is one.
  private mutating func close(_ status: String) -> [Event] {
    var events: [Event] = []
    let item: JinjaValue
    switch open {
    case nil: return []
    case .message(let id, let text, let logProbabilities):
      let place: JinjaMapping = ["item_id": .string(id), "output_index": index, "content_index": 0]
      let part = ResponseItems.outputText(text, logProbabilities: logProbabilities)
      var done = place
      done["text"] = .string(text)
      done["logprobs"] = .list(logProbabilities)
      events.append(event("response.output_text.done", done))
      var partDone = place
      partDone["part"] = part
      events.append(event("response.content_part.done", partDone))
      item = ResponseItems.message(id: id, status: status, content: [part])
    case .call(let id, let callID, let name, let arguments):
      events.append(
        event(
          "response.function_call_arguments.done",
          [
            "item_id": .string(id), "output_index": index, "name": .string(name), "arguments": .string(arguments),
          ]))
      item = ResponseItems.call(id: id, callID: callID, name: name, arguments: arguments, status: status)
    }
    events.append(event("response.output_item.done", ["output_index": index, "item": item]))
    output.append(item)
    open = nil
    return events
  }

  private mutating func finish(_ end: AnswerEnd) -> [Event] {
    let isWhole = end.reason != .length && end.reason != .cancelled
    var events: [Event] = []
    // An answer without a word is an empty message, so that there is always one to read.
    if output.isEmpty, open == nil { events = openMessage() }
    events += close(isWhole ? "completed" : "incomplete")
    isFinished = true
    switch end.reason {
    case .stop, .stopSequence, .toolCalls: object = object.setting("status", "completed")
    case .length:
      object = object.setting("status", "incomplete")
        .setting("incomplete_details", ["reason": "max_output_tokens"])
    case .cancelled: object = object.setting("status", "cancelled")
    }
    object = object.setting("output", .list(output)).setting(
      "usage",
      [
        "input_tokens": .integer(end.promptTokens),
        "input_tokens_details": ["cached_tokens": .integer(end.cachedTokens)],
        "output_tokens": .integer(end.completionTokens), "output_tokens_details": ["reasoning_tokens": 0],
        "total_tokens": .integer(end.promptTokens + end.completionTokens),
      ])
    events.append(event(isWhole ? "response.completed" : "response.incomplete", ["response": object]))
    return events
  }

  // MARK: log-probabilities

  private func entry(_ report: TokenReport) -> JinjaValue {
    entry(report.id, report.logProbabilities.chosen).setting(
      "top_logprobs", .list(report.logProbabilities.top.map { entry($0.token, $0.logProbability) }))
  }

  private func entry(_ id: Int32, _ logProbability: Float) -> JinjaValue {
    let bytes = tokenizer.bytes(of: id)
    return [
      "token": .string(String(decoding: bytes, as: UTF8.self)), "bytes": .list(bytes.map { .integer(Int($0)) }),
      "logprob": .logProbability(logProbability),
    ]
  }
}
