import CSIMD
import KernelInterface

func gemm(_ a: borrowing GEMMArguments) {
  let (rowA, stepA) = a.transposeA ? (1, a.lda) : (a.lda, 1)
  let (columnB, stepB) = a.transposeB ? (a.ldb, 1) : (1, a.ldb)
  for i in 0..<a.m {
    for j in 0..<a.n {
      var s: Float = 0
      for k in 0..<a.k { s += a.a[i * rowA + k * stepA] * a.b[j * columnB + k * stepB] }
      let c = a.c + i * a.ldc + j
      c.pointee = (a.beta == 0 ? 0 : a.beta * c.pointee) + a.alpha * s
    }
  }
}
