# What a developer does here; CONTRIBUTING.md tells more.

# Debian's own Python: the packages that the agent runs with come from Debian.
PYTHON ?= /usr/bin/python3
VENV := .venv
RUN := $(VENV)/bin/python
export PYTHONPATH := $(CURDIR)

.PHONY: help demo test lint unit integration matrix bench clean

help:
	@echo "make demo         see the agent answer a request"
	@echo "make test         lint, and all tests but those of a whole system"
	@echo "make matrix       the tests with the other Pythons that are here"
	@echo "make bench        compare the agent's speed with the floor"
	@echo "make clean        remove what the others have made"

demo: $(VENV)/demo
	@tests/demo/run $(RUN)

test: lint unit integration

lint: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	shellcheck tests/packages tests/matrix tests/demo/run .ci/run

unit: $(VENV)/test
	$(RUN) -m pytest -q tests/unit

integration: $(VENV)/test
	$(RUN) -m pytest -q tests/integration

matrix: $(VENV)/test
	tests/matrix

bench: $(VENV)/demo
	$(RUN) bench/compare.py

# A virtual environment that sees Debian's packages; installs those that are
# missing, for which it has to be root.
$(VENV)/demo: tests/packages
	tests/packages demo
	$(PYTHON) -m venv --system-site-packages $(VENV)
	touch $@

$(VENV)/test: $(VENV)/demo tests/packages requirements-dev.txt
	tests/packages test
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .pybuild \
	    .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
