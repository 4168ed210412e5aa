#!/usr/bin/env bash
# runs the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, each instruction set that this processor has
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-../build/sanitize}
problems=${2:-150}
mkdir -p "$out"
compile=(${CXX:-g++} -std=c++17 -O1 -g1 -Wno-psabi -ffp-contract=fast -fsanitize=address,undefined
    -fno-sanitize-recover=all -fno-omit-frame-pointer -DINVOLUTION_FEW_SIZES)
avx2=(-mavx2 -mfma -mf16c)
avx512=("${avx2[@]}" -mavx512f -mavx512vl -mavx512bw -mavx512dq)
sources=(driver dispatch sets/baseline)
sets=(baseline)
if [ "$(uname -m)" = x86_64 ]; then
    sources+=(sets/avx2 sets/avx512)
    grep -q avx2 /proc/cpuinfo && sets+=(avx2)
    grep -q avx512vl /proc/cpuinfo && sets+=(avx512)
fi
objects=()
jobs=()
for source in "${sources[@]}"; do
    name=$(basename "$source")
    flags=()
    [ "$name" = avx2 ] && flags=("${avx2[@]}")
    [ "$name" = avx512 ] && flags=("${avx512[@]}")
    "${compile[@]}" "${flags[@]}" -c "$source.cpp" -o "$out/$name.o" &
    jobs+=($!)
    objects+=("$out/$name.o")
done
for job in "${jobs[@]}"; do wait "$job"; done
"${compile[@]}" "${objects[@]}" -pthread -o "$out/driver"
for set in "${sets[@]}"; do INVOLUTION_CPU=$set "$out/driver" "$problems"; done
