#!/usr/bin/env bash
# The kernels against the limits of the processor, at every level that it has, and f32 GEMM beside OpenBLAS.
#   Benchmarks/kernels/run.sh [--rounds N]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
swift build -c release
for level in v4 v3; do
  .build/release/kernel-bench gemm --level "$level" --rounds 1 >/dev/null 2>&1 || continue
  for subject in $(.build/release/kernel-bench subjects); do
    echo "== $subject, $level"
    .build/release/kernel-bench "$subject" --level "$level" "$@"
  done
done
python3 openblas.py "$@"
