#!/bin/sh
# Installs what serves files of `involution export`, and no PyTorch, into a folder. Run it where pyproject.toml is:
# sh examples/docker/install.sh FOLDER [onnx|openvino]
set -eu
folder=$1
runtime=${2:-onnx}
case $runtime in
    onnx) packages="onnx onnxruntime" ;;
    openvino) packages="openvino filelock" ;;
    *) echo "wanted onnx or openvino, got $runtime" >&2; exit 2 ;;
esac
pip="-m pip --quiet --disable-pip-version-check --no-cache-dir"

"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" $pip install --constraint constraints.txt --requirement examples/docker/requirements.txt $packages

# the runtimes' libraries of involutions are compiled without PyTorch, and the package is installed without what it asks
# for, which is PyTorch
"${PYTHON:-python3}" -m venv "$folder/build"
"$folder/build/bin/python" $pip install "setuptools>=77" wheel
INVOLUTION_BUILD_NATIVE=runtimes "$folder/build/bin/python" $pip wheel --no-deps --no-build-isolation \
    --wheel-dir "$folder/build" .
"$folder/bin/python" $pip install --no-deps "$folder"/build/involution-*.whl
rm -rf "$folder/build"

if [ "$runtime" = openvino ]; then
    # compiled now, because where it is used there is no compiler
    INVOLUTION_CACHE="$folder/cache" "$folder/bin/python" -c "import involution.export as e; e.openvino_library()"
fi
"$folder/bin/python" $pip uninstall --yes pip
