# Every target creates .venv first. It needs only Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test test-gpu test-browser lint golden bench rehearse torture fuzz soak repro demo clean

install: .venv/installed

# One process for each core, at most four, because each takes up to 2.5 GB.
test: export OMP_NUM_THREADS := 1
test: .venv/installed
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

test-browser: .venv/demo/installed
	.venv/demo/bin/python -m pytest -m browser

demo: .venv/demo/installed
	.venv/demo/bin/sclip demo

bench: .venv/installed
	$(BIN)/sclip bench

rehearse: .venv/installed
	$(BIN)/python -m pytest -m full_size

# Both continue where they were stopped: the logs say what is done. Delete them to begin again.
torture: export OMP_NUM_THREADS := 1
torture: .venv/installed
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m torture.run --faults 1000 --log torture.jsonl

fuzz: export OMP_NUM_THREADS := 1
fuzz: .venv/installed
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m fuzz.run --inputs 1000000 --minutes 50 --log fuzz.jsonl

soak: .venv/installed
	$(BIN)/python -m pytest -m soak

golden: .venv/installed
	$(BIN)/python -m pytest -m golden

lint: .venv/installed
	$(BIN)/ruff check pipeline tests
	$(BIN)/ruff format --check pipeline tests
	$(BIN)/mypy

# Two trainings run in parallel, each on half of the cores. With few cores this is faster than one on all cores.
repro: export PATH := $(CURDIR)/$(BIN):$(PATH)
repro: .venv/installed
	dvc repro extract-features embed-clip
	dvc stage list --name-only | sed -n 's/^train@//p' | sort -r | \
		OMP_NUM_THREADS=$$((($$(getconf _NPROCESSORS_ONLN) + 1) / 2)) \
		xargs -P 2 -I RUN dvc --wait-for-lock repro --single-item train@RUN evaluate@RUN
	dvc repro

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Gradio needs a Pillow older than the one in constraints.txt, which decides results. So the demo and the browser tests
# have an environment of their own, which adds a few packages to those of .venv.
.venv/demo/installed: .venv/installed
	$(BIN)/python -m venv .venv/demo
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$(.venv/demo/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	.venv/demo/bin/python -m pip install --quiet --editable '.[demo,browser]'
	touch $@

clean:
	rm -rf .venv
