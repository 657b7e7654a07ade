# The project's commands. README.md has the plain commands of `demo` and `test` for those without make.
.DEFAULT_GOAL := help
VENV ?= .venv
RUN := $(VENV)/bin/

# The first Python that is new enough; empty if there is none, which `install.sh` explains.
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)
PYTHON_FOUND := $(shell for p in $(CANDIDATES); do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help demo test check faults format pins catalogues

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed-%.txt: %.txt
	@PYTHON="$(PYTHON_FOUND)" stage/install.sh $(VENV) $<
	@cp $< $@

demo: $(VENV)/installed-requirements.txt  ## Shop, worker and sandbox gateway on this machine: no account, no network
	@$(RUN)python -m stage

test: $(VENV)/installed-requirements-dev.txt  ## The tests: unit, over HTTP with the sandbox, one purchase in Chromium
	$(RUN)python -m pytest $(WORKERS) -m "not slow and not postgres"

check: $(VENV)/installed-requirements-dev.txt  ## What CI adds: lint, types, PostgreSQL, every page in eight modes, small fault runs
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)mypy examples/python/small_shop.py examples/naive/naive_shop.py
	$(RUN)python -m pytest $(WORKERS) -m "(slow or postgres) and not long"

WORKERS := -n auto --dist worksteal  # of the tests: see tests/conftest.py; each has databases of its own

CHECKOUTS ?= 1000
PATIENT := -o faulthandler_timeout=7200
faults: $(VENV)/installed-requirements-dev.txt  ## Kill and break things for long; CHECKOUTS=10000 sets the size
	$(RUN)python -m tests.faults.campaign --checkouts $(CHECKOUTS) --database sqlite
	$(RUN)python -m tests.faults.campaign --checkouts $(CHECKOUTS) --database postgresql
	GUESSES=10000 $(RUN)python -m pytest $(PATIENT) -rP --show-capture=stdout tests/test_staff.py tests/test_limits.py -k 'flood or guesses'
	ROUNDS=50 $(RUN)python -m pytest $(PATIENT) -m long -rP --show-capture=stdout
	SEQUENCES=2000 CALLBACKS=100000 REPLIES=20000 $(RUN)python -m pytest $(PATIENT) $(WORKERS) -rP --show-capture=stdout tests/faults/test_stateful.py tests/faults/test_fuzz.py

format: $(VENV)/installed-requirements-dev.txt  ## Format the code
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

pins:  ## Make requirements*.txt anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml $(PIN) -o requirements.txt
	uv pip compile pyproject.toml --extra server -c requirements.txt $(PIN) -o requirements-server.txt
	uv pip compile pyproject.toml --extra server --group dev -c requirements-server.txt $(PIN) -o requirements-dev.txt
PIN := --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 -q

catalogues: $(VENV)/installed-requirements-dev.txt  ## Bring translations/ up to date with the texts in code and templates
	$(RUN)pybabel -q extract -F translations/babel.cfg -o translations/messages.pot --omit-header --no-location --sort-output .
	$(RUN)pybabel -q update -i translations/messages.pot -d translations --ignore-pot-creation-date --no-fuzzy-matching --ignore-obsolete
	$(RUN)pybabel -q compile -d translations
