import ApusKernels

/// Attention in the shapes of the reference models: prefill of 512 tokens, decode at 512 and 4096 keys, an encoder's.
/// Work counts the visible (query, key) pairs: 4 · headDim operations a pair and head.
func benchmarkAttention(_ run: BenchmarkRun) {
  let kernels = run.kernels
  struct Shape {
    var name: String, heads: Int, kvHeads: Int, headDim: Int, queries: Int, keys: Int
    var causal = true, kind = DType.f16
  }
  let shapes = [
    Shape(name: "prefill smollm2", heads: 9, kvHeads: 3, headDim: 64, queries: 512, keys: 512),
    Shape(name: "prefill qwen 0.5b", heads: 14, kvHeads: 2, headDim: 64, queries: 512, keys: 512),
    Shape(name: "prefill qwen 1.5b", heads: 12, kvHeads: 2, headDim: 128, queries: 512, keys: 512),
    Shape(name: "prefill gemma", heads: 4, kvHeads: 1, headDim: 256, queries: 512, keys: 512),
    Shape(
      name: "encoder minilm", heads: 12, kvHeads: 12, headDim: 32, queries: 256, keys: 256, causal: false, kind: .f32),
    Shape(name: "decode smollm2", heads: 9, kvHeads: 3, headDim: 64, queries: 1, keys: 512),
    Shape(name: "decode smollm2", heads: 9, kvHeads: 3, headDim: 64, queries: 1, keys: 4096),
    Shape(name: "decode qwen 0.5b", heads: 14, kvHeads: 2, headDim: 64, queries: 1, keys: 4096),
    Shape(name: "decode qwen 1.5b", heads: 12, kvHeads: 2, headDim: 128, queries: 1, keys: 4096),
    Shape(name: "decode gemma", heads: 4, kvHeads: 1, headDim: 256, queries: 1, keys: 4096),
    Shape(name: "decode 8/8 heads", heads: 8, kvHeads: 8, headDim: 128, queries: 1, keys: 16384),
  ]
  for threads in [1, 2] {
    let pool = ThreadPool(threads: threads)
    for s in shapes {
      let width = s.heads * s.headDim, kvWidth = s.kvHeads * s.headDim
      let q = benchmarkFloats(s.queries * width), out = benchmarkFloats(s.queries * width)
      let rows = benchmarkFloats(s.keys * kvWidth)
      let blocks = (s.keys + 15) / 16, stride = 16 * kvWidth * s.kind.blockBytes
      let k = UnsafeMutableRawPointer.allocate(byteCount: blocks * stride, alignment: 64)
      let v = UnsafeMutableRawPointer.allocate(byteCount: blocks * stride, alignment: 64)
      let table = UnsafeMutablePointer<Int32>.allocate(capacity: blocks)
      for i in 0..<blocks { table[i] = Int32(i) }
      defer {
        q.deallocate()
        out.deallocate()
        rows.deallocate()
        k.deallocate()
        v.deallocate()
        table.deallocate()
      }
      let view = KVView(k: k, v: v, blockStride: stride, table: table, kind: s.kind)
      kernels.storeKV(view, rows, kvWidth, rows, kvWidth, s.keys, s.kvHeads, s.headDim, 0)
      let first = s.causal ? s.keys - s.queries : 0
      let pairs = s.causal ? (0..<s.queries).reduce(0) { $0 + first + $1 + 1 } : s.queries * s.keys
      // One query a key head over more keys than the caches hold is limited by reading them.
      let isRead = s.queries == 1 && s.heads == s.kvHeads
      let work = isRead ? Double(2 * s.keys * kvWidth * s.kind.blockBytes) : 4 * Double(pairs) * Double(width)
      run.measure("\(s.name), \(s.keys) keys", work: work, limit: isRead ? .memory : .arithmetic, pool: pool) {
        let arguments = AttentionArguments(
          q: q, ldq: width, out: out, ldo: width, queries: s.queries, heads: s.heads, kvHeads: s.kvHeads,
          headDim: s.headDim, firstPosition: first, keyCount: s.keys, causal: s.causal, scale: 0.125, kv: view)
        pool.parallelFor(items: kernels.attentionItems(arguments), grain: 1) { range, thread in
          kernels.attention(arguments, range, pool.scratch(thread))
        }
      }
    }
  }
}
