# `make` lists what there is. Everything runs in .venv, which is made on first use.
# Options: PYTHON=python3.12 (the Python that makes .venv), PIP_ARGS=... (for pip install),
# WORKERS=4 (processes of make test), BENCH_ARGS=... (for make bench; python -m benchmarks --help
# lists them).

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BENCH_ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BOOK_STAMP := $(VENV)/.book-installed

.DEFAULT_GOAL := help
.PHONY: help check-env run test core lab edit data export notebooks student quiz grade slides results fuzz bench book book-test explorer explorer-test audit pins lint clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

check-env: ## say in ten seconds whether this machine is ready for the notebooks, and what mends it
	@$(if $(wildcard $(PY)),$(PY),$(PYTHON)) tools/check_env.py

run: $(STAMP) ## run all notebooks, pages with all figures in build/html
	OMP_WAIT_POLICY=PASSIVE $(PY) tools/run_notebooks.py
	@$(PY) tools/show_translations.py

# Two workers with one thread each; notebook 07 trains on Multi30k for a minute only.
test: $(BOOK_STAMP) ## lint, unit tests, the book, and every notebook against its stored outputs
	@started=$$(date +%s) && $(MAKE) --no-print-directory lint && $(PY) -m book \
	  && LINT_SECONDS=$$(($$(date +%s) - started)) OMP_NUM_THREADS=1 \
	  TRANSFORMER_LIB_BUDGET=$${TRANSFORMER_LIB_BUDGET:-test} TRANSFORMER_LIB_BOOK=build/book \
	  $(PY) -m pytest tests notebooks --ignore=notebooks/solutions -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  --nbval --nbval-current-env --nbval-cell-timeout=1500 --nbval-sanitize-with=tests/nbval.cfg

core: ## README's first two blocks of Python in a fresh environment without extras (needs the network)
	rm -rf build/core build/lib && $(PYTHON) -m venv build/core
	build/core/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt .
	cd build && core/bin/python ../tools/readme_snippets.py

lab: $(STAMP) ## open copies of the notebooks in JupyterLab (lab/, kept between lessons)
	$(PY) tools/student_notebooks.py --solutions
	OMP_WAIT_POLICY=PASSIVE $(PY) -m jupyterlab lab

edit: $(STAMP) ## open the notebooks themselves in JupyterLab, to change them
	OMP_WAIT_POLICY=PASSIVE $(PY) -m jupyterlab notebooks

data: $(STAMP) ## fetch Multi30k, which notebook 07 uses when it is there
	$(PY) -m transformer_lib fetch

export: $(STAMP) ## write the exported modules and the head of every notebook
	$(PY) tools/export_notebooks.py

notebooks: $(STAMP) ## run all notebooks in place, to commit them with their outputs
	OMP_WAIT_POLICY=PASSIVE $(PY) tools/run_notebooks.py --inplace

student: $(STAMP) ## copies without outputs in student/; a changed copy is never written over
	$(PY) tools/student_notebooks.py

quiz: $(STAMP) ## write the quiz of each notebook as a page to print, with answers, into build/quiz
	$(PY) tools/quiz_sheet.py

grade: $(STAMP) ## table of who passed which exercise: make grade DIR=submissions
	$(PY) tools/grade.py $(GRADE_ARGS) "$(or $(DIR),submissions)"

slides: $(STAMP) ## one deck of slides for each notebook in build/slides (PDF=1: PDF files, too)
	$(PY) tools/slides.py $(if $(PDF),--pdf)

results: $(STAMP) ## write what was measured into README.md, docs and model cards
	$(PY) tools/readme_results.py

fuzz: $(STAMP) ## throw bytes at every reader for SECONDS=60 each (installs atheris)
	$(PY) -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) 'atheris>=3.0'
	$(PY) tools/fuzz.py $(or $(SECONDS),60)

bench: $(STAMP) ## measure speed next to the peers, which it installs into build/bench (BENCH_ARGS=--quick)
	OMP_WAIT_POLICY=PASSIVE $(PY) -m benchmarks --pip-args="$(PIP_ARGS)" $(BENCH_ARGS)

book: $(BOOK_STAMP) ## build the book: notebooks, documents and API as a site in build/book
	$(PY) -m book

book-test: $(BOOK_STAMP) ## look at every page of build/book in Chromium, after make book
	TRANSFORMER_LIB_BOOK=build/book TRANSFORMER_LIB_BOOK_PAGES=all OMP_NUM_THREADS=1 \
	  $(PY) -m pytest tests/test_book.py -n $(WORKERS)

explorer: $(STAMP) ## write the explorer with the models that ship into build/explorer
	$(PY) -c "from transformer_lib.translate.explorer import write_explorer as w; print(w('build/explorer') / 'index.html')"

explorer-test: $(STAMP) ## compare page and library on 1,000 sentences each way, in Chromium (eight minutes)
	TRANSFORMER_LIB_EXPLORER=full OMP_NUM_THREADS=1 $(PY) -m pytest tests/test_explorer.py

audit: ## look the pinned versions up among the known vulnerabilities (needs the network)
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit \
	  && build/audit/bin/pip install --quiet $(PIP_ARGS) pip-audit; }
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

pins: ## check that the pinned versions install on Python 3.11.0 to 3.14 (needs the network)
	test -x build/pins/bin/uv || { $(PYTHON) -m venv build/pins \
	  && build/pins/bin/pip install --quiet $(PIP_ARGS) uv; }
	build/pins/bin/python tools/check_pins.py

lint: $(STAMP) ## ruff, and whether notebooks and library agree
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) tools/export_notebooks.py --check
	$(PY) tools/readme_results.py --check

# Older versions wrote the students' copies into build/student.
clean: ## remove what was built; .venv, data, lab/ and student/ stay
	test ! -d build || find build -mindepth 1 -maxdepth 1 -not -name student -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=python3.12"; \
	  exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[lessons,cli,test]" || { \
	  echo "The pinned versions did not install on $$($(PY) -V). They are meant for Python 3.11 to 3.14" \
	    "on Linux, Windows and Apple silicon; another Python: rm -r $(VENV) && make PYTHON=python3.12"; \
	  exit 1; }
	touch $@

$(BOOK_STAMP): $(STAMP)
	$(PY) -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -c constraints.txt -e ".[book]"
	touch $@
