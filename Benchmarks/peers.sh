#!/usr/bin/env bash
# Makes the peers' Python environments under .peers/ (ignored by git), by name and version from PyPI.
#   Benchmarks/peers.sh [llama|llama-avx2|ref|schema|vectors]...      default: llama ref
#     llama        llama.cpp for this CPU (llama-cpp-python builds it from source: about 9 CPU-minutes), gguf
#     llama-avx2   the same for AVX2, whatever this CPU has: the peer of APUS_CPU_LEVEL=v3
#     ref          PyTorch CPU, sentence-transformers, onnxruntime, tokenizers, jinja2
#     schema       jsonschema and llguidance, which judge constrained answers
#     vectors      faiss, numpy and the headers of hnswlib, which Benchmarks/vectors compiles against
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

llama_version=0.3.36
hnswlib_version=0.8.0
avx2_only='-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF'

environment() {
  mkdir -p .peers
  [[ -x .peers/$1/bin/python ]] || python3 -m venv ".peers/$1"
}
install() { ".peers/$1/bin/python" -m pip install --disable-pip-version-check "${@:2}"; }

llama() {
  environment "$1"
  CMAKE_ARGS=$2 install "$1" --no-cache-dir --no-binary llama-cpp-python "llama-cpp-python==$llama_version" gguf==0.19.0
}

(($#)) || set -- llama ref
for peer in "$@"; do
  case $peer in
    llama) llama llama '' ;;
    llama-avx2) llama llama-avx2 "$avx2_only" ;;
    ref)
      environment ref
      install ref --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
      install ref sentence-transformers==6.2.0 onnxruntime==1.32.0 onnx==1.23.2 tokenizers==0.23.3 jinja2==3.1.6 \
        gguf==0.19.0
      ;;
    schema)
      environment schema
      install schema jsonschema==4.26.0 llguidance==1.9.1
      ;;
    vectors)
      environment vectors
      install vectors numpy==2.4.6 faiss-cpu==1.15.1
      .peers/vectors/bin/python -m pip download --disable-pip-version-check --no-deps --no-binary hnswlib \
        --dest .peers/vectors "hnswlib==$hnswlib_version"
      mkdir -p .peers/vectors/hnswlib
      tar --extract --gzip --strip-components=1 --directory .peers/vectors/hnswlib \
        --file ".peers/vectors/hnswlib-$hnswlib_version.tar.gz"
      ;;
    *) echo "peers.sh: unknown peer '$peer' (known: llama, llama-avx2, ref, schema, vectors)" >&2; exit 2 ;;
  esac
done
