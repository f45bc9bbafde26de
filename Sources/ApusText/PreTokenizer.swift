/// One step that cuts text into words.
enum PreTokenizer: Sendable, Equatable {
  /// What becomes of the matches of a pattern.
  enum Behavior: String, Sendable {
    case removed = "Removed"
    case isolated = "Isolated"
    case mergedWithPrevious = "MergedWithPrevious"
    case mergedWithNext = "MergedWithNext"
    case contiguous = "Contiguous"
  }

  case split(SplitPattern, Behavior, invert: Bool)
  /// A space in front of text that does not start with one (byte-level BPE).
  case prefixSpace
  /// Spaces become `replacement`; a prefix is added; words are cut before each replacement.
  case metaspace(replacement: [UInt8], prefix: MetaspacePrefix, split: Bool)
  /// Words between white space, punctuation marks alone.
  case bert
  case punctuation(Behavior)

  enum MetaspacePrefix: String, Sendable {
    case always, first, never
  }
}

/// Runs a chain of pre-tokenizers over one stretch of text and hands the words to `body`.
struct WordSplitter: Sendable {
  let steps: [PreTokenizer]

  /// `isTextStart` tells whether `bytes[start]` opens the whole text. `body` gets each word's buffer and range.
  func forEachWord(
    _ bytes: [UInt8], _ start: Int, _ end: Int, isTextStart: Bool,
    _ body: (_ bytes: [UInt8], _ start: Int, _ end: Int) -> Void
  ) {
    let classes = UnicodeTable.shared.classes
    run(0, bytes, start, end, isTextStart, classes, body)
  }

  private func run(
    _ index: Int, _ bytes: [UInt8], _ start: Int, _ end: Int, _ isTextStart: Bool, _ classes: [UInt8],
    _ body: (_ bytes: [UInt8], _ start: Int, _ end: Int) -> Void
  ) {
    if start == end { return }
    if index == steps.count {
      body(bytes, start, end)
      return
    }
    let isLast = index + 1 == steps.count
    func emit(_ from: Int, _ to: Int) {
      if from == to { return }
      if isLast {
        body(bytes, from, to)
      } else {
        run(index + 1, bytes, from, to, isTextStart && from == start, classes, body)
      }
    }
    switch steps[index] {
    case .split(let pattern, let behavior, let invert):
      if behavior == .isolated {
        isolate(pattern, bytes, start, end, classes, emit)
      } else {
        split(behavior, invert, bytes, start, end, emit) {
          pattern.match(bytes, at: $0, end: end, classes: classes)
        }
      }
    case .punctuation(let behavior):
      split(behavior, false, bytes, start, end, emit) { position in
        let (scalar, next) = UTF8Text.scalar(bytes, at: position)
        return BertTable.shared.flags[Int(scalar)] & BertTable.punctuation != 0 ? next : nil
      }
    case .bert:
      splitBert(bytes, start, end, classes, emit)
    case .prefixSpace:
      let (scalar, _) = UTF8Text.scalar(bytes, at: start)
      if classes[Int(scalar)] & UnicodeTable.whitespaceFlag != 0 {
        run(index + 1, bytes, start, end, isTextStart, classes, body)
      } else {
        let padded = [0x20] + bytes[start..<end]
        run(index + 1, padded, 0, padded.count, isTextStart, classes, body)
      }
    case .metaspace(let replacement, let prefix, let cut):
      var text = Normalizer.replacing(Array(bytes[start..<end]), [0x20], replacement)
      if prefix == .always || (prefix == .first && isTextStart), !text.starts(with: replacement) {
        text = replacement + text
      }
      if cut {
        let whole = text
        split(.mergedWithNext, false, whole, 0, whole.count) { from, to in
          run(index + 1, whole, from, to, isTextStart && from == 0, classes, body)
        } match: { position in
          position + replacement.count <= whole.count
            && whole[position..<(position + replacement.count)].elementsEqual(replacement)
            ? position + replacement.count : nil
        }
      } else {
        run(index + 1, text, 0, text.count, isTextStart, classes, body)
      }
    }
  }

  /// The common case, without bookkeeping: every match and every gap is a word.
  @inline(__always)
  private func isolate(
    _ pattern: SplitPattern, _ bytes: [UInt8], _ start: Int, _ end: Int, _ classes: [UInt8],
    _ emit: (Int, Int) -> Void
  ) {
    var gap = start
    var position = start
    while position < end {
      if let matchEnd = pattern.match(bytes, at: position, end: end, classes: classes), matchEnd > position {
        emit(gap, position)
        emit(position, matchEnd)
        gap = matchEnd
        position = matchEnd
      } else {
        position += UTF8Text.sequenceLength(bytes[position])
      }
    }
    emit(gap, end)
  }

  /// Cuts at the matches of `match`, which returns a match's end or nil.
  private func split(
    _ behavior: PreTokenizer.Behavior, _ invert: Bool, _ bytes: [UInt8], _ start: Int, _ end: Int,
    _ emit: (Int, Int) -> Void, match: (Int) -> Int?
  ) {
    // Parts alternate between matches and gaps, in order; `invert` swaps their roles.
    var parts: [(start: Int, end: Int, isMatch: Bool)] = []
    var gap = start
    var position = start
    while position < end {
      if let matchEnd = match(position), matchEnd > position {
        if gap < position { parts.append((gap, position, invert)) }
        parts.append((position, matchEnd, !invert))
        gap = matchEnd
        position = matchEnd
      } else {
        position += UTF8Text.sequenceLength(bytes[position])
      }
    }
    if gap < end { parts.append((gap, end, invert)) }
    switch behavior {
    case .removed:
      for part in parts where !part.isMatch { emit(part.start, part.end) }
    case .isolated:
      for part in parts { emit(part.start, part.end) }
    case .contiguous:
      var index = 0
      while index < parts.count {
        var last = index
        while last + 1 < parts.count && parts[last + 1].isMatch == parts[index].isMatch { last += 1 }
        emit(parts[index].start, parts[last].end)
        index = last + 1
      }
    case .mergedWithPrevious:
      // A match joins the gap before it; a match after a match stands alone.
      var index = 0
      while index < parts.count {
        if !parts[index].isMatch && index + 1 < parts.count && parts[index + 1].isMatch {
          emit(parts[index].start, parts[index + 1].end)
          index += 2
        } else {
          emit(parts[index].start, parts[index].end)
          index += 1
        }
      }
    case .mergedWithNext:
      var index = 0
      while index < parts.count {
        if parts[index].isMatch && index + 1 < parts.count && !parts[index + 1].isMatch {
          emit(parts[index].start, parts[index + 1].end)
          index += 2
        } else {
          emit(parts[index].start, parts[index].end)
          index += 1
        }
      }
    }
  }

  private func splitBert(
    _ bytes: [UInt8], _ start: Int, _ end: Int, _ classes: [UInt8], _ emit: (Int, Int) -> Void
  ) {
    let flags = BertTable.shared.flags
    var wordStart = start
    var position = start
    while position < end {
      let (scalar, next) = UTF8Text.scalar(bytes, at: position)
      if classes[Int(scalar)] & UnicodeTable.whitespaceFlag != 0 {
        emit(wordStart, position)
        wordStart = next
      } else if flags[Int(scalar)] & BertTable.punctuation != 0 {
        emit(wordStart, position)
        emit(position, next)
        wordStart = next
      }
      position = next
    }
    emit(wordStart, end)
  }
}
