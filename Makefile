# Targets make their own environment in .venv and install again only when pyproject.toml has changed.
.PHONY: demo train test test-cv lint clean
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
ENVIRONMENT := .venv/installed
RUN := .venv/bin/python
# A process a core, each with files of its own: what a file compiles on JAX is compiled once. In tests/conftest.py's order.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:
	@echo "make demo                               train on shapes that kcifar draws itself, half a minute on 2 cores"
	@echo "make train RECIPE=recipes/mixup.py ARGS='epochs=30 --data DIR'"
	@echo "make test                               all tests, on torch and on JAX"
	@echo "make test-cv                            those of KerasCV, the extra cv"
	@echo "make lint                               formatting and static checks"

$(ENVIRONMENT): pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# Without what only the tests need, which `make test` adds to the same environment.
.venv/demo: pyproject.toml
	@echo "make demo: installing kcifar in .venv with all that it needs, torch, JAX and Keras among it; this takes minutes, once"
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
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

.venv-cv/installed: pyproject.toml
	$(PYTHON) -m venv .venv-cv
	.venv-cv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[cv,test]'
	touch $@

lint: $(ENVIRONMENT)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

clean:
	rm -rf .venv .venv-cv .pytest_cache .ruff_cache *.egg-info
