# make demo      install, then the whole tour: simulate, search, detect, caption, draw, train, evaluate, one page
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
	$(BIN)/python -m pip install --quiet --editable ".[app,dev]"
	touch $@

# The tour, with the reference weights of weights/. Each step resumes or is skipped when done, so
# running make demo again takes seconds.
HEPH := $(BIN)/heph-vl
DEMO_SIZE ?= -n 400 --frames 28 --seed 0
DEMO_FRAME ?= 155D_02484_191814
DEMO_STEPS ?= 20
SHORT = --data.path $(DEMO)/dataset --run.root $(DEMO) --run.name short --loop.steps $(DEMO_STEPS) \
	--loop.warmup_steps 4 --loop.log_every 2 --optimizer.lr 1e-4 --data.batch_size 16 --resume
step = @printf '\n\033[1m%s\033[0m\n' $(1)

demo: .venv/.installed
	$(call step,"1/10  Simulate an archive of interferograms")
	$(HEPH) simulate $(DEMO)/archive $(DEMO_SIZE)
	$(call step,"2/10  Pair images with captions and labels; split by volcano")
	$(HEPH) dataset $(DEMO)/archive $(DEMO)/dataset
	@$(MAKE) --no-print-directory $(DEMO)/index.html
	@echo
	@echo "Open $(DEMO)/index.html, or try:"
	@echo "  $(HEPH) search $(DEMO)/index \"sill-type deformation on the left\" --sheet out.png"
	@echo "  $(BIN)/pip install -e \".[app]\" && $(HEPH) app --index $(DEMO)/index"

$(DEMO)/index/meta.json:
	$(call step,"3/10  Index the test volcanoes for search by text")
	rm -rf $(DEMO)/index
	$(HEPH) index $(DEMO)/dataset $(DEMO)/index --split test

$(DEMO)/detected.json:
	$(call step,"4/10  Detect and outline deformation in a series that no model has seen")
	$(HEPH) detect $(DEMO)/archive/$(DEMO_FRAME) --out $(DEMO)/detected --json > $@.part
	@mv $@.part $@

$(DEMO)/captions.json:
	$(call step,"5/10  Describe it in words")
	$(HEPH) caption $(DEMO)/archive/$(DEMO_FRAME) --explain $(DEMO)/explained --json > $@.part
	@mv $@.part $@

$(DEMO)/drawn/sheet_1.png:
	$(call step,"6/10  Draw interferograms of a sentence")
	rm -rf $(DEMO)/drawn
	$(HEPH) generate "A mogi-type deformation of high intensity on the left side" -n 8 --out $(DEMO)/drawn

$(DEMO)/series.json:
	$(call step,"7/10  Order the pairs in time and watch for unrest")
	$(HEPH) series $(DEMO)/archive --frame $(DEMO_FRAME) --plot $(DEMO)/series.png --json > $@.part
	$(HEPH) watch $(DEMO)/archive/$(DEMO_FRAME) --out $(DEMO)/alerts
	@mv $@.part $@

# A few steps each, to see that it goes: not enough to learn anything new.
$(DEMO)/generator/short/results.json:
	$(call step,"8/10  Train each task for a few steps from the reference weights")
	$(BIN)/python training/train_heads.py --config configs/heads/small.yaml \
		--init.path weights/heads --init.whole true $(SHORT)
	$(BIN)/python training/train_retriever.py --config configs/retriever/small.yaml \
		--init.path weights/retriever --init.whole true $(SHORT)
	$(BIN)/python training/train_captioner.py --config configs/captioner/small.yaml \
		--init.path weights/captioner --init.whole true --data.fit_images 16 $(SHORT)
	$(BIN)/python training/train_generator.py --config configs/generator/small.yaml \
		--init.autoencoder weights/generator/autoencoder --init.denoiser weights/generator \
		--data.cached_crops 128 --data.evaluate_crops 16 --sample.steps 8 $(SHORT)

$(DEMO)/results/captions.json:
	$(call step,"9/10  Evaluate on the test volcanoes beside baselines")
	@mkdir -p $(DEMO)/results
	$(BIN)/python eval/evaluate.py --data $(DEMO)/dataset --model weights/heads \
		--write-predictions $(DEMO)/predicted --out $(DEMO)/results/labels.json > /dev/null
	$(BIN)/python eval/evaluate.py --data $(DEMO)/dataset --model weights/retriever \
		--heads $(DEMO)/predicted/predictions.jsonl --out $(DEMO)/results/retrieval.json > /dev/null
	$(BIN)/python eval/evaluate.py --data $(DEMO)/dataset --model weights/captioner \
		--heads $(DEMO)/predicted/predictions.jsonl --samples 16 --out $@ > /dev/null

$(DEMO)/index.html: $(DEMO)/index/meta.json $(DEMO)/detected.json $(DEMO)/captions.json \
		$(DEMO)/drawn/sheet_1.png $(DEMO)/series.json $(DEMO)/generator/short/results.json \
		$(DEMO)/results/captions.json $(wildcard eval/report*.py)
	$(call step,"10/10  One page of it all")
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
