# make quickstart   an environment, the package, and everything once on real text (ARGS="--resume" goes on with a killed run)
# make test         an environment, the package, and the tests
# make check        ruff and mypy

VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/

.PHONY: quickstart test check clean

quickstart: $(VENV)/.demo
	$(RUN)dynackd quickstart $(ARGS)

# A process a core, up to four, each with one thread: together they would take each other's.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(RUN)python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/.test
	$(RUN)ruff check .
	$(RUN)mypy dynackd

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg constraints.txt | $(VENV)/bin/python
	$(RUN)pip install --quiet --constraint constraints.txt --editable ".[demo]"
	@touch $@

$(VENV)/.test: setup.cfg constraints.txt | $(VENV)/bin/python
	$(RUN)pip install --quiet --constraint constraints.txt --editable ".[demo,test]"
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
