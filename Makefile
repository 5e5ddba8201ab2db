# make demo | view | check | test | soak | bench | lint | clean; see README.md and BUILD.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# TensorFlow of each Python; BUILD.md, "Two stacks".
TENSORFLOW_3.10 := 2.15
TENSORFLOW_3.11 := 2.15
TENSORFLOW_3.12 := 2.21
TENSORFLOW_3.13 := 2.21
TENSORFLOW := $(TENSORFLOW_$(VERSION))
READY := $(VENV)/.ready-$(VERSION)
TESTS ?= not soak
DEMO := build/demo
# Not part of `make bench`: one needs GPUs, the other trains for half an hour.
LONG_BENCHMARKS := benchmarks/bench_gpu.py benchmarks/bench_quality.py
# In five minutes, patches of 64 voxels teach a little more about phantoms than the preset's 96.
DEMO_TRAINING := --preset=cpu --time_budget_minutes=5 --patch_size=64

.PHONY: help demo view check test soak bench lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   phantoms -> TFRecords -> U-Net -> SavedModel -> report, in $(DEMO)"
	@echo "make view   the viewer on the demo's model and phantoms"
	@echo "make test   the test suite (10 to 15 minutes on two cores)"
	@echo "make check  style checks and the fast tests (under 90 seconds)"
	@echo "make soak   the long tests"
	@echo "make bench  the benchmarks"
	@echo "make lint   ruff, mypy, oxlint"
	@echo "Another Python: make PYTHON=python3.13 test (3.10 to 3.13; each rebuilds $(VENV)/)"

$(READY): setup.cfg $(wildcard constraints-tf*.txt)
	@test -n "$(TENSORFLOW)" || { echo "$(PYTHON) is Python $(VERSION); expected 3.10 to 3.13, for" \
	    "instance: make PYTHON=python3.11" >&2; exit 2; }
	@echo "Python $(VERSION): installing TensorFlow $(TENSORFLOW) and the rest of" \
	    "constraints-tf$(TENSORFLOW).txt into $(VENV)/"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints-tf$(TENSORFLOW).txt -e '.[dev,cluster]'
	@touch $@

# Every stage runs once; remove its folder (or `make clean`) to run it again.
demo: $(DEMO)/report/report.html
	@cat $(DEMO)/thresholds.txt $(DEMO)/headline.txt
	@echo "Viewer: make view"
	@echo "   (or: $(BIN)/streamlit run app/viewer.py -- --model=$(DEMO)/model/saved_model --cases_dir=$(DEMO)/cohort)"

$(DEMO)/cohort/.done: | $(READY)
	@mkdir -p $(DEMO)
	$(BIN)/python tools/make_phantom.py --output_dir=$(DEMO)/cohort --cases=24 --seed=2020 \
	    --jobs=2 --threshold_baselines > $(DEMO)/thresholds.txt
	@touch $@

$(DEMO)/dataset/dataset.json: $(DEMO)/cohort/.done | $(READY)
	$(BIN)/python tools/convert_to_tfrecord.py --input_dir=$(DEMO)/cohort \
	    --output_dir=$(DEMO)/dataset --folds=4 --normalize=brain

$(DEMO)/model/saved_model/saved_model.pb: $(DEMO)/dataset/dataset.json | $(READY)
	$(BIN)/python tools/train.py --data_dir=$(DEMO)/dataset --model_dir=$(DEMO)/model \
	    --validation_fold=3 --test_fold=1 $(DEMO_TRAINING)

$(DEMO)/report/report.html: $(DEMO)/model/saved_model/saved_model.pb | $(READY)
	rm -rf $(DEMO)/report
	$(BIN)/python tools/evaluate.py --model=$(DEMO)/model/saved_model --data_dir=$(DEMO)/dataset \
	    --fold=1 --output_dir=$(DEMO)/report > $(DEMO)/headline.txt

# Three processes: many tests wait for the processes that they start. A process that runs out of tests
# takes some of the others'.
test: $(READY)
	$(BIN)/python -m pytest -m '$(TESTS)' --numprocesses=3 --dist=worksteal

# For every edit: linters, and what takes less than a second a test.
check: lint
	$(BIN)/python -m pytest -m 'not soak and not slow and not browser' --numprocesses=2 \
	    --dist=worksteal --durations=5 --quiet

soak: $(READY)
	$(BIN)/python -m pytest -m soak

view: $(READY)
	$(BIN)/streamlit run app/viewer.py -- --model=$(DEMO)/model/saved_model \
	    --cases_dir=$(DEMO)/cohort

bench: $(READY)
	for script in $(filter-out $(LONG_BENCHMARKS),$(wildcard benchmarks/bench_*.py)); do \
	    $(BIN)/python $$script || exit $$?; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/oxlint app/canvas/frontend

clean:
	rm -rf build
