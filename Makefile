# Targets for developers; see CONTRIBUTING.md.

# Debian's Python, because the agent's libraries are Debian packages.
PYTHON ?= /usr/bin/python3
VENV := .venv
# Debian release for the system tests: bookworm (12) or trixie (13).
RELEASE ?= bookworm
SYSTEM_TESTS ?= tests/system
# Integration tests run at once; they mostly wait for processes.
AT_ONCE ?= 4
# For make chaos: the same seed repeats the same faults and requests.
SEED ?= $(shell shuf -i 1-999999 -n 1)
MINUTES ?= 5
RUN := $(VENV)/bin/python
export PYTHONPATH := $(CURDIR)

.PHONY: help demo test lint unit integration attacks attack-latency matrix \
    chaos bench bench-growth bench-units clean deb lintian system-test \
    memory-test

help:
	@echo "make demo         watch the agent answer a request"
	@echo "make test         all of make lint, make unit, make integration and"
	@echo "                  make attacks"
	@echo "make matrix       the tests with other installed Pythons,"
	@echo "                  and with Debian 13's Redis and Valkey"
	@echo "make chaos        send requests while injecting faults; SEED=,"
	@echo "                  MINUTES=, CHAOS=OPTIONS; CHAOS=--help lists these"
	@echo "make deb          build the Debian packages in build/deb"
	@echo "make lintian      check the packages; RELEASE=bookworm or trixie"
	@echo "make system-test  test a whole system, as root; RELEASE= as above"
	@echo "make memory-test  test the limits of memory and processes in an"
	@echo "                  emulated machine, as root; RELEASE= as above"
	@echo "make bench        compare the agent's speed with a bare minimum,"
	@echo "                  bench/floor.py; also draws build/bench.svg"
	@echo "make bench-growth measure the agent's memory over many requests;"
	@echo "                  $(RUN) -m bench --help lists options"
	@echo "make bench-units  compare the brokers systemd and command in a booted"
	@echo "                  Debian, as root; RELEASE= as above"
	@echo "make attack-latency"
	@echo "                  measure how long others wait during a flood"
	@echo "make clean        remove everything that the other targets made"

demo: $(VENV)/demo
	@tests/demo/run $(RUN)

test: lint unit integration attacks

lint: $(VENV)/test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	shellcheck tests/packages tests/matrix tests/demo/run .ci/run \
	    debian/ngcp-task-agent.postinst debian/restart-after-upgrade

unit: $(VENV)/test
	$(RUN) -m pytest -q -n 2 tests/unit

integration: $(VENV)/test
	$(RUN) -m pytest -q -n $(AT_ONCE) --dist loadgroup tests/integration

attacks: $(VENV)/test
	$(RUN) -m pytest -q -n $(AT_ONCE) tests/attacks

attack-latency: $(VENV)/test
	$(RUN) -m tests.attacks.latency

matrix: $(VENV)/test
	tests/matrix

# CHAOS: more options, such as --stop-agents, --kill-agents, --stock-limits.
chaos: $(VENV)/test
	$(RUN) -m tests.chaos --seed $(SEED) --minutes $(MINUTES) $(CHAOS)

# The README shows a copy of the chart: cp build/bench.svg bench/speed.svg
bench: $(VENV)/demo
	@mkdir -p build
	$(RUN) -m bench --json build/bench.json --svg build/bench.svg

bench-growth: $(VENV)/demo
	$(RUN) -m bench --only growth

bench-units:
	tests/packages system
	$(PYTHON) -m tests.system $(RELEASE) -q -s tests/system/bench_units.py

# Builds from a copy without ignored files, so that the tree stays clean.
deb:
	@tests/packages deb
	@rm -rf build/deb
	@mkdir -p build/deb/source
	@git ls-files -co --exclude-standard -z \
	    | tar --null --files-from=- -c | tar -x -C build/deb/source
	@echo "building and testing the packages; log: build/deb/build.log"
	@cd build/deb/source && env -u PYTHONPATH \
	    PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc \
	    >../build.log 2>&1 || { cat ../build.log >&2; exit 1; }
	@rm -rf build/deb/source
	@printf '%s\n' build/deb/*.deb

lintian:
	$(MAKE) system-test SYSTEM_TESTS=tests/system/test_packages.py

memory-test:
	tests/packages emulated
	$(PYTHON) -m tests.system --emulate $(RELEASE)

system-test:
	tests/packages system
	$(PYTHON) -m tests.system $(RELEASE) $(SYSTEM_TESTS)

# A virtual environment on top of Debian's packages.  Installing missing
# packages needs root.
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
