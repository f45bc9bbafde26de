extension Array {
  /// Sorts as `sort(by:)` does, stable, with memory that the caller keeps where that one allocates: insertion in short runs,
  /// then merges. O(n log n).
  mutating func sort(through scratch: inout [Element], by precedes: (Element, Element) -> Bool) {
    let run = 16
    for start in stride(from: 0, to: count, by: run) {
      for i in start..<Swift.min(start + run, count) {
        let element = self[i]
        var j = i
        while j > start, precedes(element, self[j - 1]) {
          self[j] = self[j - 1]
          j -= 1
        }
        self[j] = element
      }
    }
    var width = run
    while width < count {
      scratch.removeAll(keepingCapacity: true)
      var start = 0
      while start < count {
        let (middle, end) = (Swift.min(start + width, count), Swift.min(start + 2 * width, count))
        var (left, right) = (start, middle)
        while left < middle, right < end {
          if precedes(self[right], self[left]) {
            scratch.append(self[right])
            right += 1
          } else {
            scratch.append(self[left])
            left += 1
          }
        }
        scratch.append(contentsOf: self[left..<middle])
        scratch.append(contentsOf: self[right..<end])
        start = end
      }
      swap(&self, &scratch)
      width *= 2
    }
  }
}
