PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Many containers set it; every process would compile all that it imports, for longer than the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

# For `make gpu`: any Python that has torch, Triton and what else cogvid imports; nothing is installed. REHEARSE=1 runs
# the same commands on a CPU, on tiny grids and in Triton's interpreter.
GPU_PYTHON ?= python3
REHEARSE ?=
GPU_FOLDER := $(CURDIR)/dist/gpu
GPU_RUN = PYTHONPATH="$(GPU_FOLDER):$(CURDIR)/framework:$(CURDIR)/plugins$${PYTHONPATH:+:$$PYTHONPATH}" \
	$(if $(REHEARSE),TRITON_INTERPRET=1 OMP_NUM_THREADS=1) $(GPU_PYTHON)
REHEARSAL := --methods dense,causal,tiled,triton --out $(GPU_FOLDER)/rehearsal.json
GPU_DECODE = $(GPU_RUN) -m cogvid bench decode $(if $(REHEARSE),--rehearse --out $(GPU_FOLDER)/decode.json,--device cuda --compile)
GPU_BENCH = $(GPU_RUN) -m cogvid bench attention $(if $(REHEARSE),--rehearse,--device cuda)

.DEFAULT_GOAL := test
.PHONY: demo test slow golden lint typecheck docs fix clean gpu gpu-test gpu-tune gpu-bench

demo: $(INSTALLED)
	$(BIN)/cogvid run quickstart
	$(BIN)/cogvid compare runs/quickstart --out runs/quickstart/report.html

# Files of tests side by side on all cores, in their order: the long ones of docs and integration come first.
test: $(INSTALLED)
	$(BIN)/pytest -m 'not slow' -n auto --dist loadfile --no-loadscope-reorder

# Jobs of several processes, and proofs over everything: minutes more.
slow: $(INSTALLED)
	$(BIN)/pytest -m slow -n auto --dist loadfile --no-loadscope-reorder

# The losses of a seeded tiny run against those in tests/integration/golden.json; KEEP=1 keeps those of now.
golden: $(INSTALLED)
	COGVID_GOLDEN=$(if $(KEEP),keep,compare) $(BIN)/pytest tests/integration/test_golden.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(INSTALLED)
	$(BIN)/mypy

# The pages as a site, in site/; a link that leads nowhere is an error.
docs: .venv/.docs
	$(BIN)/mkdocs build --strict

fix: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: gpu-test gpu-tune gpu-bench

gpu-test: $(GPU_FOLDER)/.written
	$(GPU_RUN) -m pytest -m gpu $$(grep -rl --include='*.py' 'mark\.gpu' tests)

# On the longest sequence that every GPU has memory for: what is fastest there is written into the table.
gpu-tune: $(GPU_FOLDER)/.written
	$(GPU_BENCH) attention=swin_ar --grid 5x60x60 --methods triton --tune --repeats 1 --out $(GPU_FOLDER)/tuned.json

gpu-bench: $(GPU_FOLDER)/.written
	$(GPU_BENCH) $(if $(REHEARSE),$(REHEARSAL),--repeats 10)
	$(GPU_DECODE)

$(GPU_FOLDER)/.written: .ci/metadata.py pyproject.toml
	$(GPU_PYTHON) .ci/metadata.py $(GPU_FOLDER)
	touch $@

# Runs are results, not build products: they stay.
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist site
	find framework plugins tests -type d -name __pycache__ -prune -exec rm -rf {} +

# Of what is installed most is never imported; the rest is compiled when it is.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[dev]'
	touch $@

.venv/.docs: $(INSTALLED)
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[dev,docs]'
	touch $@
