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
# those that this processor doesn't run would be compiled for minutes in vain
# shellcheck disable=SC2086
listed=$("${PYTHON:-python3}" sets/listed.py "$(uname -m)" ${CXX:-g++})
while read -r what name flags; do
    if [ "$what" = left-out ]; then
        echo "$name is left out: this processor does not run it"
        continue
    fi
    # shellcheck disable=SC2086
    start "$name" sets/set.cpp -DINVOLUTION_NAME="$name" $flags
done <<< "$listed"
for job in "${jobs[@]}"; do wait "$job"; done
"${compile[@]}" "${objects[@]}" -pthread -o "$out/driver"
"$out/driver" "$problems"
