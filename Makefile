# make demo | test | check | bench: each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench format clean

demo: $(READY)
	$(BIN)/corerec demo

test: $(READY)
	$(BIN)/pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(READY)
	@test -n "$(DATA)" || { echo "make bench DATA=ml-1m-sasrec.txt.gz [BEAUTY=...] [PEER=... PEER_SCRIPT=...]" >&2; exit 2; }
	$(BIN)/python benchmarks/short.py --ml-1m $(DATA) $(if $(BEAUTY),--beauty $(BEAUTY)) \
		$(if $(PEER),--peer $(PEER) --peer-script $(PEER_SCRIPT))

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# torch goes first and alone: constraints.txt pins the version that the tests passed with.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
