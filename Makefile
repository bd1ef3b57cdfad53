# What a developer does here; CONTRIBUTING.md tells more.

# Debian's own Python: the packages that the agent runs with come from Debian.
PYTHON ?= /usr/bin/python3
VENV := .venv
# Of Debian, whose system is tested: bookworm (12) or trixie (13).
RELEASE ?= bookworm
SYSTEM_TESTS ?= tests/system
# Integration tests mostly wait, for real parts.
AT_ONCE ?= 4
# Of make chaos: the same seed gives the same faults and requests.
SEED ?= $(shell shuf -i 1-999999 -n 1)
MINUTES ?= 5
RUN := $(VENV)/bin/python
export PYTHONPATH := $(CURDIR)

.PHONY: help demo test lint unit integration matrix chaos bench clean \
    deb lintian system-test

help:
	@echo "make demo         see the agent answer a request"
	@echo "make test         lint, and all tests but those of a whole system"
	@echo "make matrix       the tests with the other Pythons that are here,"
	@echo "                  and with Debian 13's Redis and Valkey"
	@echo "make chaos        requests while all fails; SEED=, MINUTES=, CHAOS="
	@echo "make deb          the Debian packages, in build/deb"
	@echo "make lintian      examine the packages; RELEASE=bookworm or trixie"
	@echo "make system-test  the tests of a whole system, as root; RELEASE too"
	@echo "make bench        compare the agent's speed with the floor"
	@echo "make clean        remove what the others have made"

demo: $(VENV)/demo
	@tests/demo/run $(RUN)

test: lint unit integration

lint: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	shellcheck tests/packages tests/matrix tests/demo/run .ci/run \
	    debian/ngcp-task-agent.postinst debian/restart-after-upgrade

unit: $(VENV)/test
	$(RUN) -m pytest -q -n 2 tests/unit

integration: $(VENV)/test
	$(RUN) -m pytest -q -n $(AT_ONCE) tests/integration

matrix: $(VENV)/test
	tests/matrix

# CHAOS holds more options: --stop-agents, --kill-agents, --stock-limits.
chaos: $(VENV)/test
	$(RUN) -m tests.chaos --seed $(SEED) --minutes $(MINUTES) $(CHAOS)

bench: $(VENV)/demo
	$(RUN) bench/compare.py

# Built from what a clone would have, so that the tree stays as it is.
deb:
	@tests/packages deb
	@rm -rf build/deb
	@mkdir -p build/deb/source
	@git ls-files -co --exclude-standard -z \
	    | tar --null --files-from=- -c | tar -x -C build/deb/source
	@echo "builds and tests the packages; the log is build/deb/build.log"
	@cd build/deb/source && env -u PYTHONPATH \
	    PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc \
	    >../build.log 2>&1 || { cat ../build.log >&2; exit 1; }
	@rm -rf build/deb/source
	@printf '%s\n' build/deb/*.deb

lintian:
	$(MAKE) system-test SYSTEM_TESTS=tests/system/test_packages.py

system-test:
	tests/packages system
	$(PYTHON) -m tests.system $(RELEASE) $(SYSTEM_TESTS)

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
