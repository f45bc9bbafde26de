#!/bin/sh
# Fails when two instruction-set levels of the kernels define the same linkable symbol: the linker keeps one of them, and
# an older processor would run the newer level's instructions. Usage: check-kernel-symbols.sh [build folder]
set -eu
build=${1:-.build/release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for level in V2 V3 V4; do
  ls "$build/Kernels$level.build/"*.o > /dev/null
  # Code only: text (T) and weak (W) symbols; local ones (t) cannot merge. Type metadata holds no instructions of a level.
  nm --defined-only "$build/Kernels$level.build/"*.o | awk 'NF == 3 && $2 ~ /^[TWVui]$/ { print $3 }' |
    grep -v -e '^__swift_reflection_version$' -e '^symbolic' -e '^\.L' | sort -u > "$work/$level"
  test -s "$work/$level"
done
status=0
for pair in "V2 V3" "V2 V4" "V3 V4"; do
  set -- $pair
  comm -12 "$work/$1" "$work/$2" > "$work/both"
  if test -s "$work/both"; then
    echo "Kernels$1 and Kernels$2 both define:"
    sed 's/^/  /' "$work/both"
    status=1
  fi
done
test $status = 0 && echo "no symbol is defined by two instruction-set levels"
exit $status
