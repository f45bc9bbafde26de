import ApusKernels
import Foundation

// kernel-bench SUBJECT [--level v2|v3|v4] [--rounds N] [--json]
// Each subject measures its kernels and the arithmetic's own limit in alternation and prints medians with their spread.

let subjects: [(name: String, run: (BenchmarkRun) -> Void)] = [
  ("gemm", benchmarkGEMM),
  ("matmul", benchmarkFloatMatmul),
  ("attention", benchmarkAttention),
  ("quantized", benchmarkQuantized),
]

var arguments = Array(CommandLine.arguments.dropFirst())
var level = Kernels.current.level
var rounds = 7
var json = false

func usage(_ problem: String) -> Never {
  FileHandle.standardError.write(Data("\(problem)\nkernel-bench SUBJECT [--level v3] [--rounds N] [--json]\n".utf8))
  exit(2)
}

if arguments.first == "subjects" {
  for subject in subjects { print(subject.name) }
  exit(0)
}
guard let name = arguments.first, let subject = subjects.first(where: { $0.name == name }) else {
  usage("name a subject: \(subjects.map(\.name).joined(separator: ", "))")
}
arguments.removeFirst()
while let option = arguments.first {
  arguments.removeFirst()
  switch option {
  case "--json": json = true
  case "--level":
    guard let number = arguments.first.flatMap({ Int($0.drop { $0 == "v" }) }),
      let wanted = CPULevel(rawValue: number), Kernels.table(wanted) != nil
    else { usage("--level: expected one of \(Kernels.available)") }
    level = wanted
    arguments.removeFirst()
  case "--rounds":
    guard let text = arguments.first, let number = Int(text), number > 0 else { usage("--rounds: expected a count") }
    rounds = number
    arguments.removeFirst()
  default: usage("unknown option \(option)")
  }
}
let run = BenchmarkRun(kernels: Kernels.table(level)!, rounds: rounds)
subject.run(run)
run.report(json: json)
