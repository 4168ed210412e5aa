#!/usr/bin/env bash
# compiles the kernels for aarch64 and checks them there, by emulation
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-../build/aarch64}
problems=${2:-100}
cxx=${CXX_AARCH64:-aarch64-linux-gnu-g++}
for tool in "$cxx" qemu-aarch64; do
    command -v "$tool" > /dev/null && continue
    echo "$tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
    exit 1
done
mkdir -p "$out"
compile=("$cxx" -std=c++17 -O2 -Wall -Wextra -Wno-psabi -ffp-contract=fast)
objects=()
for source in driver dispatch; do
    "${compile[@]}" -c "$source.cpp" -o "$out/$source.o"
    objects+=("$out/$source.o")
done
for name in $(sed -n 's/^INVOLUTION_SET(\(\w*\), \(any\|aarch64\), .*/\1/p' sets/list.h); do
    "${compile[@]}" -DINVOLUTION_NAME="$name" -c sets/set.cpp -o "$out/$name.o"
    objects+=("$out/$name.o")
done
"$cxx" -static "${objects[@]}" -pthread -o "$out/driver"
qemu-aarch64 "$out/driver" "$problems"
