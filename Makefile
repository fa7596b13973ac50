# Every target does its own set-up; what is needed is Python 3.11 or newer, git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs docs-quick clean

help:
	@echo "make demo     explain a face and write demo/explanation.html and demo/explanation.gif"
	@echo "make test     the whole test suite with doctests and coverage"
	@echo "make check    lint and types"
	@echo "make docs     the site in site/, with the notebooks executed; docs-quick leaves them as they are"
	@echo "make install  only set up $(VENV)"
	@echo "make clean    remove $(VENV) and everything built"

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	"$(PYTHON)" -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# Exit code 1 is the verdict "do not trust", which is an answer: only 2 and above are failures.
demo: $(INSTALLED)
	@$(VENV)/bin/explainer demo --out demo || [ $$? -eq 1 ]
	@echo "The page: $(CURDIR)/demo/explanation.html"

# One thread per worker: torch's own threads on top of the workers' are slower than either alone.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --cov --cov-report=term

check: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# One set-up for the site and its notebooks; warnings are errors.
$(VENV)/.documenting: $(INSTALLED)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,docs]'
	@touch $@

docs: $(VENV)/.documenting
	NOTEBOOKS=execute OMP_NUM_THREADS=1 $(VENV)/bin/python -m sphinx -W --keep-going -q -E -b html docs site
	@echo "The site: $(CURDIR)/site/index.html"

docs-quick: $(VENV)/.documenting
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs site

clean:
	rm -rf $(VENV) build dist demo site docs/notebooks docs/zoo jupyter_execute .pytest_cache .mypy_cache .ruff_cache .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
