# make demo   the whole path on a synthetic city: convert, train, evaluate, pictures (minutes on 2 cores)
# make test   the tests; make test-slow those that take minutes
# make test-parity   the comparison with PyTorch, which it installs into .venv
# make test-browser   the report's page in headless Chromium, where there is one
# make test-beam   conversion through Apache Beam, which it installs into .venv
# make test-chaos   a run that is killed 20 times, starved and damaged, against an undisturbed one (at most 10 minutes)
# make lint   ruff, formatting and mypy, as CI runs them
# The interpreter is PYTHON (3.11 or later): make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo

.PHONY: demo test test-slow test-parity test-beam test-browser test-chaos lint format clean
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

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-parity: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,torch]'
	$(BIN)/python -m pytest -m parity tests/parity

# Needs a Chromium on the path
test-browser: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python -m pytest -m browser tests/reporting

test-beam: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,beam]'
	$(BIN)/python -m pytest tests/data_prep/test_cluster.py

test-chaos: $(STAMP)
	SGMA_CHAOS=full $(BIN)/python -m pytest -m slow -s tests/chaos tests/end_to_end/test_dying_processes.py

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
