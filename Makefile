# make demo | test | check | docs | bench: each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IN_PARALLEL := -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.PHONY: demo test check docs bench licences audit format clean

demo: $(READY)
	$(BIN)/corerec demo

test: $(READY)
	$(BIN)/pytest $(IN_PARALLEL)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The site, in site/: open site/index.html. It runs the notebooks and asks a small server each example request.
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	@test -n "$(DATA)" || { echo "make bench DATA=ml-1m-sasrec.txt.gz [BEAUTY=...] [PEER=... PEER_SCRIPT=...]" >&2; exit 2; }
	$(BIN)/python benchmarks/short.py --ml-1m $(DATA) $(if $(BEAUTY),--beauty $(BEAUTY)) \
		$(if $(PEER),--peer $(PEER) --peer-script $(PEER_SCRIPT))

# The licence of each package that the library needs, and of those behind its extras.
licences: $(READY)
	$(BIN)/python scripts/licences.py all

# Known vulnerabilities of the pinned versions; skipped, with the reason, where there is no network.
audit: $(READY)
	$(PIP) pip-audit
	$(BIN)/python scripts/audit.py constraints.txt

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site

# torch goes first and alone: constraints.txt pins the version that the tests passed with.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[dev]'
	touch $@

# What builds the site comes on top: the tests do without.
$(DOCS_READY): $(READY)
	$(PIP) -e '.[docs]'
	touch $@
