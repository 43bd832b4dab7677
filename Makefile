# Every target creates .venv first. It needs only Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test test-gpu lint golden bench rehearse repro clean

test: .venv/installed
	$(BIN)/python -m pytest

test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

bench: .venv/installed
	$(BIN)/sclip bench

rehearse: .venv/installed
	$(BIN)/python -m pytest -m full_size

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
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
