# make demo   the whole path on a synthetic city: convert, train, evaluate, pictures (minutes on 2 cores)
# make test   the tests; make test-slow those that take minutes; make test-long those of which CI runs a shorter form (about half an hour)
# make test-parity   the comparison with PyTorch, which it installs into .venv
# make test-browser   the report's page in headless Chromium, where there is one
# make test-cloud   conversion through Apache Beam, and runs kept in a bucket, against an emulator; it installs both into .venv
# make experiments   the comparison of docs/experiments.md, resumable (about 3 hours); SGMA_REAL_DATA=FOLDER adds the real scenes (4.5 more). experiments-short: minutes
# make test-chaos   a run that is killed 20 times, starved and damaged, against an undisturbed one, and one of two processes that goes (about 10 minutes)
# make bench-accelerator   speed, memory and profile on the GPU or TPU that is there, beside PyTorch's (about 10 minutes); OUT=FOLDER says where it writes
# make lint   ruff, formatting and mypy, as CI runs them
# The interpreter is PYTHON (3.11 or later): make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
COMPARE := runs/compare
# Minutes of each training on the real scenes, idle; what is compared is the number of steps that SGMA makes in them. On the city it is its preset's 300.
BUDGET_MINUTES ?= 5

.PHONY: demo experiments experiments-short test test-slow test-long test-parity test-cloud test-browser test-chaos bench-accelerator lint format clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,vector]'
	@touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/python -m data_prep.synthetic $(DEMO)/data --overwrite
	$(BIN)/sgma train experiments/demo.py --data.path $(DEMO)/data --workdir $(DEMO)
	$(BIN)/sgma evaluate $(DEMO) --split test --pictures 4
	$(BIN)/sgma report $(DEMO) --out $(DEMO)/report.html
	@echo
	@echo "Left in $(DEMO):"
	@find $(DEMO) -mindepth 1 -maxdepth 1 | sort | sed 's/^/  /'
	@find $(DEMO)/evaluation -type f | sort | sed 's/^/  /'
	@echo
	@echo "Next, try:"
	@echo "  $(BIN)/sgma evaluate $(DEMO) --split test --missing zero    # the other published protocol: absent sensors are zeros"
	@echo "  $(BIN)/sgma inspect experiments/potsdam_pvt_v2_b2.py        # size and cost of the paper's model, by part"
	@echo "  $(BIN)/python -m data_prep.geotiff SCENE runs/mine/data     # your own rasters: a folder with a GeoTIFF per sensor, label.tif, split.tif"

# Trainings: 18 a data set for the methods, and on the city 21 for the paper's rows and modality dropout, 13 of one seed for the variants: 88 with the real
# scenes. On the city two at a time, one a core, with their scores and without corruptions and analysis, are 4 to 5 minutes each (docs/results.md).
experiments: $(STAMP)
	test -d $(COMPARE)/city/data || $(BIN)/python -m data_prep.synthetic $(COMPARE)/city/data
	for group in methods paper dropout; do \
		$(BIN)/python -m experiments.compare --data $(COMPARE)/city/data --base experiments/demo.py --out $(COMPARE)/city \
			--seeds 3 --group $$group --corruptions --analysis || exit; \
	done
	for group in fusion sampling; do \
		$(BIN)/python -m experiments.compare --data $(COMPARE)/city/data --base experiments/demo.py --out $(COMPARE)/city \
			--seeds 1 --group $$group || exit; \
	done
	$(BIN)/python -m experiments.compare.costs --base experiments/demo.py --out $(COMPARE)/city
ifdef SGMA_REAL_DATA
	test -d $(COMPARE)/zion/data || $(BIN)/python -m data_prep.geotiff $(SGMA_REAL_DATA)/zion30m $(COMPARE)/zion/data --modalities rgb nir
	$(BIN)/python -m experiments.compare --data $(COMPARE)/zion/data --base experiments/zion.py --out $(COMPARE)/zion \
		--seeds 3 --budget-minutes $(BUDGET_MINUTES) --corruptions --analysis
	test -d $(COMPARE)/grau_du_roi/data || $(BIN)/python -m data_prep.geotiff $(SGMA_REAL_DATA)/ign_grauduroi $(COMPARE)/grau_du_roi/data \
		--modalities rgb nir ndsm --tile 128 --overlap 64
	$(BIN)/python -m experiments.compare --data $(COMPARE)/grau_du_roi/data --base experiments/grau_du_roi.py --out $(COMPARE)/grau_du_roi \
		--seeds 3 --budget-minutes $(BUDGET_MINUTES) --corruptions --analysis
endif

# The same path in minutes: few steps on few tiles, one seed, so its scores mean nothing, and what is compiled need not be fast.
experiments-short: $(STAMP)
	rm -rf $(COMPARE)/short
	$(BIN)/python -m data_prep.synthetic $(COMPARE)/short/data --size 96 --train 16 --validation 4 --test 8
	XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m experiments.compare --data $(COMPARE)/short/data --base experiments/demo.py \
		--out $(COMPARE)/short --seeds 1 --steps 10 --methods sgma complete_mean magic_like

# Tests are mostly compilation, which keeps one core busy, so there are two processes. A file's tests stay together, because they share
# fixtures, and in the files' order: by number of tests, which xdist prefers, the longest file comes last. TESTS names some instead of all.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

test-parity: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,torch]'
	$(BIN)/python -m pytest -m parity tests/parity

# Needs a Chromium on the path
test-browser: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python -m pytest -m browser tests/report

test-cloud: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,beam,cloud]' gcp-storage-emulator
	$(BIN)/python -m pytest tests/data_prep/test_cluster.py tests/end_to_end/test_storage.py

test-chaos: $(STAMP)
	SGMA_CHAOS=full $(BIN)/python -m pytest -m slow -s tests/chaos tests/end_to_end/test_dying_processes.py

bench-accelerator: $(STAMP)
	$(BIN)/python -m experiments.benchmarks.accelerator --out $(or $(OUT),runs/accelerator)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv312 .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
