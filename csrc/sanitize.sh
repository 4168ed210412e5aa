#!/usr/bin/env bash
# runs the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, each instruction set that this processor has
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-../build/sanitize}
problems=${2:-150}
mkdir -p "$out"
compile=(${CXX:-g++} -std=c++17 -O1 -g1 -Wno-psabi -ffp-contract=fast -fsanitize=address,undefined
    -fno-sanitize-recover=all -fno-omit-frame-pointer)
avx2=(-mavx2 -mfma -mf16c)
objects=("$out/driver.o" "$out/dispatch.o" "$out/baseline.o")
"${compile[@]}" -c driver.cpp -o "$out/driver.o"
"${compile[@]}" -c dispatch.cpp -o "$out/dispatch.o"
"${compile[@]}" -c sets/baseline.cpp -o "$out/baseline.o"
sets=(baseline)
if [ "$(uname -m)" = x86_64 ]; then
    "${compile[@]}" "${avx2[@]}" -c sets/avx2.cpp -o "$out/avx2.o"
    "${compile[@]}" "${avx2[@]}" -mavx512f -mavx512vl -mavx512bw -mavx512dq -c sets/avx512.cpp -o "$out/avx512.o"
    objects+=("$out/avx2.o" "$out/avx512.o")
    grep -q avx2 /proc/cpuinfo && sets+=(avx2)
    grep -q avx512vl /proc/cpuinfo && sets+=(avx512)
fi
"${compile[@]}" "${objects[@]}" -pthread -o "$out/driver"
for set in "${sets[@]}"; do INVOLUTION_CPU=$set "$out/driver" "$problems"; done
