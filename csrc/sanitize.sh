#!/usr/bin/env bash
# runs the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, each instruction set that this processor has
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-../build/sanitize}
problems=${2:-150}
mkdir -p "$out"
# calls of AddressSanitizer instead of its checks in place, which take minutes to compile where loops are unrolled
calls=(--param asan-instrumentation-with-call-threshold=0)
[[ $(${CXX:-g++} --version) != *clang* ]] || calls=(-mllvm -asan-instrumentation-with-call-threshold=0)
compile=(${CXX:-g++} -std=c++17 -O1 -g1 -Wno-psabi -ffp-contract=fast -fsanitize=address,undefined
    "${calls[@]}" -fno-sanitize-recover=all -fno-omit-frame-pointer -DINVOLUTION_FEW_SIZES)
objects=()
jobs=()
start() { # object, arguments of the compiler
    "${compile[@]}" "${@:2}" -c -o "$out/$1.o" &
    jobs+=($!)
    objects+=("$out/$1.o")
}
start driver driver.cpp
start dispatch dispatch.cpp
while read -r name architecture features; do
    [ "$architecture" = any ] || [ "$architecture" = "$(uname -m)" ] || continue
    # shellcheck disable=SC2001,SC2046
    start "$name" sets/set.cpp -DINVOLUTION_NAME="$name" $(sed 's/F(\(\w*\))/-m\1/g' <<< "$features")
done < <(sed -n 's/^INVOLUTION_SET(\(\w*\), \(\w*\), \(.*\))$/\1 \2 \3/p' sets/list.h)
for job in "${jobs[@]}"; do wait "$job"; done
"${compile[@]}" "${objects[@]}" -pthread -o "$out/driver"
"$out/driver" "$problems"
