# Targets make their own environments, of the versions in constraints.txt, and install again only where that or
# pyproject.toml has changed.
.PHONY: demo train test test-cv test-next lint clean
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
ENVIRONMENT := .venv/installed
RUN := .venv/bin/python
INSTALL := -m pip install --quiet --disable-pip-version-check
# A process a core, each with files of its own: what a file compiles on JAX is compiled once. In tests/conftest.py's order.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# What leans on the inside of Keras.
INSIDE := tests/backend tests/training tests/experiment/test_together.py tests/test_train_together.py

help:
	@echo "make demo                               train on shapes that kcifar draws itself, half a minute on 2 cores"
	@echo "make train RECIPE=recipes/mixup.py ARGS='epochs=30 --data DIR'"
	@echo "make test                               all tests, on torch and on JAX"
	@echo "make test-cv                            those of KerasCV, the extra cv"
	@echo "make test-next                          accelerate, SAM, optimizers, schedules, processes on keras-nightly and torch"
	@echo "make lint                               formatting and static checks"

$(ENVIRONMENT): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) $(INSTALL) --constraint constraints.txt --editable '.[test]'
	touch $@

# Without what only the tests need, which `make test` adds to the same environment.
.venv/demo: pyproject.toml constraints.txt
	@echo "make demo: installing kcifar in .venv with all that it needs, torch, JAX and Keras among it; this takes minutes, once"
	$(PYTHON) -m venv .venv
	$(RUN) $(INSTALL) --constraint constraints.txt --editable .
	touch $@

demo: $(if $(wildcard $(ENVIRONMENT)),$(ENVIRONMENT),.venv/demo)
	@echo "make demo: training on shapes that kcifar draws itself, half a minute on 2 cores; the run goes to runs/"
	$(RUN) -m kcifar.train recipes/demo.py $(ARGS)

train: $(ENVIRONMENT)
	@test -n "$(RECIPE)" || { echo "make train: no RECIPE given; for example make train RECIPE=recipes/mixup.py" >&2; exit 2; }
	$(RUN) -m kcifar.train $(RECIPE) $(ARGS)

test: $(ENVIRONMENT)
	KERAS_BACKEND=torch $(RUN) -m pytest $(PARALLEL) $(ARGS)
	KERAS_BACKEND=jax $(RUN) -m pytest $(PARALLEL) -m "not once" $(ARGS)

# KerasCV in an environment of its own: it needs TensorFlow, which nothing else here does.
test-cv: .venv-cv/installed
	KERAS_BACKEND=torch .venv-cv/bin/python -m pytest tests/augment/test_keras_cv.py $(ARGS)
	KERAS_BACKEND=jax .venv-cv/bin/python -m pytest tests/augment/test_keras_cv.py $(ARGS)

.venv-cv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-cv
	.venv-cv/bin/python $(INSTALL) --constraint constraints.txt --editable '.[cv,test]'
	touch $@

# What leans on the inside of Keras, on the Keras of last night. No part of CI: it may fail without a change here.
test-next: .venv-next/installed
	.venv-next/bin/python $(INSTALL) --upgrade --pre --no-deps keras-nightly
	KERAS_BACKEND=torch .venv-next/bin/python -m pytest $(PARALLEL) $(INSIDE) $(ARGS)

.venv-next/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-next
	.venv-next/bin/python $(INSTALL) --constraint constraints.txt --editable '.[test]'
	.venv-next/bin/python -m pip uninstall --quiet --yes keras
	touch $@

lint: $(ENVIRONMENT)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

clean:
	rm -rf .venv .venv-cv .venv-next .pytest_cache .ruff_cache *.egg-info
