# make demo      install, then the whole path: simulate, dataset, train, index, evaluate, search, one page
# make test      lint, types, import contracts, unit tests (at most 12 minutes on 2 cores after installation)
# make test-all  the slow ones too (at most 45 minutes)

PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo
# libgomp spins while it waits: with another process busy, two-thread torch becomes ten times slower.
export GOMP_SPINCOUNT := 0
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo test test-all lint clean

install: .venv/.installed
.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# Each step resumes or is skipped when done, so running make demo again takes seconds.
MODEL := $(DEMO)/retriever/tiny
demo: .venv/.installed
	$(BIN)/heph-vl simulate $(DEMO)/archive -n 400 --frames 28 --seed 0
	$(BIN)/heph-vl dataset $(DEMO)/archive $(DEMO)/dataset
	$(BIN)/python training/train_retriever.py --config configs/retriever/tiny.yaml \
		--data.path $(DEMO)/dataset --run.root $(DEMO) --resume
	$(MAKE) --no-print-directory $(DEMO)/index.html
	@echo "Open $(DEMO)/index.html, or ask:"
	@echo "  $(BIN)/heph-vl search $(DEMO)/index \"sill-type deformation on the left\" --sheet out.png"

$(DEMO)/index/meta.json: $(MODEL)/results.json
	rm -rf $(DEMO)/index
	$(BIN)/heph-vl index $(DEMO)/dataset $(DEMO)/index --model $(MODEL)/model

$(DEMO)/results.json: $(MODEL)/results.json
	$(BIN)/python eval/evaluate.py --data $(DEMO)/dataset --split test --model $(MODEL)/model --out $@

$(DEMO)/index.html: $(DEMO)/index/meta.json $(DEMO)/results.json eval/report.py
	$(BIN)/python eval/report.py --demo $(DEMO)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint heph_vl training eval
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

clean:
	rm -rf runs/demo .mypy_cache .ruff_cache .pytest_cache
