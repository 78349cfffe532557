# make course   set up and run the whole course headlessly      make test   lint, tests, and the course in brief
# make check    style, types and the quick tests (a minute)      make slow   list the tests that are not quick
# make lab      open the course in JupyterLab                   make site   the course as a website, in site/
# make site-serve   the same, built and served on this machine      make clean    remove the environment and outputs
VENV ?= .venv
PYTHON ?= python3
PROFILE ?= quick
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# libraries use one thread a process; pmeta decides how many processes run
export OMP_NUM_THREADS ?= 1

.PHONY: help setup dev course lab test check slow lint types doctor bench report site site-serve theatre clean

help:
	@sed -n '1,4s/^# //p' Makefile

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else \
	  f"pmeta needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 …")'
	@echo "making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) && touch $@

$(VENV)/.course: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing pmeta and its libraries (a few minutes, once)"
	@$(PIP) -e . && touch $@

$(VENV)/.dev: $(VENV)/.course
	@echo "installing what the tests need"
	@$(PIP) -e '.[dev,site,ray,slurm,box2d,tensorboard]' && touch $@

$(VENV)/.site: $(VENV)/.course
	@echo "installing what builds the website"
	@$(PIP) -e '.[site]' && touch $@

setup: $(VENV)/.course

dev: $(VENV)/.dev

course: setup
	@$(BIN)/pmeta course --profile $(PROFILE) --workers $(WORKERS)

lab: setup
	@$(BIN)/pmeta lab

doctor: setup
	@$(BIN)/pmeta doctor

bench: setup
	@$(BIN)/pmeta bench tabular && $(BIN)/pmeta bench env && $(BIN)/pmeta bench sac

# MuJoCo's WebAssembly build and three.js, as docs/site/package-lock.json pins them, in one file: needs Node and npm
out/theatre/page.js: docs/site/package-lock.json $(wildcard docs/site/theatre/*)
	@mkdir -p out/npm && cp docs/site/package.json docs/site/package-lock.json out/npm/
	@cd out/npm && npm ci --ignore-scripts --no-audit --no-fund --loglevel error >/dev/null
	@node docs/site/theatre/build.mjs out/npm/node_modules out/theatre

theatre: out/theatre/page.js

# without Node, the site has all but the theatre
site: $(VENV)/.site $(if $(shell command -v npm),theatre)
	@$(BIN)/python -m sphinx -q -W --keep-going -j $(WORKERS) -d out/site-doctrees $(if $(STUDENT),-t student) -c docs . site && echo "site/index.html"

site-serve: site
	@echo "the site is at http://127.0.0.1:8000 (Ctrl-C ends it)"; $(BIN)/python -m http.server -b 127.0.0.1 -d site 8000

report: setup
	@$(BIN)/pmeta report --json data/claims.json --update-readme --figures docs/images --checksums

lint: dev
	@$(BIN)/ruff check --output-format concise . && $(BIN)/ruff format --check -q . && echo "lint: clean"

types: dev
	@$(BIN)/mypy

check: lint types
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

# twice: what the first round lists may have paid for a fixture that another test then pays for
slow: dev
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --find-slow && $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" --find-slow

test: lint types
	@$(BIN)/pmeta course --profile smoke --workers $(WORKERS) --compare
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

clean:
	rm -rf $(VENV) out site build *.egg-info
