#!/usr/bin/env bash
# installs the wheel that pip chooses from dist/ into an empty environment, beside torch alone, and runs the core there:
# install.sh PYTHON TORCH [FOLDER], such as install.sh python3.10 torch==2.10.0; FOLDER keeps the environment
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 torch=$2 folder=${3:-build/install-venv}
rm -rf "$folder"
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "$torch"
"${pip[@]}" --no-index --no-deps --only-binary :all: --find-links dist involution
"$folder/bin/python" -m pip check
cd "$folder"
# no compiler is found there
PATH=$PWD/bin INVOLUTION_NATIVE=1 bin/python "$OLDPWD/tests/core_alone.py"
# the command says what it needs
code=0
bin/involution demo || code=$?
test "$code" -eq 2
cd "$OLDPWD"
test "$#" -gt 2 || rm -rf "$folder"
