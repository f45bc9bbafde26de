/// WordPiece: the longest piece first, `##` in front of every piece but a word's first.
struct WordPieceModel: Sendable {
  let vocabulary: Vocabulary
  let unknown: Int32
  let continuingPrefix: [UInt8]
  /// Words with more scalars than this become one unknown token.
  let maximumScalars: Int

  func encode(_ bytes: [UInt8], _ start: Int, _ end: Int, _ state: inout EncoderState, _ output: inout [Int32]) {
    let cacheable = end - start <= WordCache.longestWord
    var hash: UInt64 = 0
    if cacheable {
      hash = state.cache.hash(bytes, start, end)
      if state.cache.lookUp(bytes, start, end, hash: hash, into: &output) { return }
    }
    let first = output.count
    encodeWord(bytes, start, end, &output)
    if cacheable { state.cache.insert(bytes, start, end, hash: hash, ids: output[first...]) }
  }

  private func encodeWord(_ bytes: [UInt8], _ start: Int, _ end: Int, _ output: inout [Int32]) {
    var scalars = 0
    for index in start..<end where bytes[index] & 0xC0 != 0x80 { scalars += 1 }
    if scalars > maximumScalars {
      output.append(unknown)
      return
    }
    let first = output.count
    var position = start
    while position < end {
      var stop = end
      var id: Int32 = -1
      while stop > position {
        if position == start {
          id = vocabulary.id(of: bytes, position, stop)
        } else {
          id = vocabulary.id(of: continuingPrefix + bytes[position..<stop])
        }
        if id >= 0 { break }
        stop -= 1
        while stop > position && bytes[stop] & 0xC0 == 0x80 { stop -= 1 }
      }
      if id < 0 {
        output.removeSubrange(first...)
        output.append(unknown)
        return
      }
      output.append(id)
      position = stop
    }
  }
}
