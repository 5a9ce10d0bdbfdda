# make run    serve the studio at http://127.0.0.1:7860 (HOST, PORT and ALLOW_HOST change that)
# make web    write a page that draws in the browser, without a server (OUT=FOLDER)
# make test   check style and run every test, a real browser included
PYTHON ?= python3
PORT ?= 7860
HOST ?= 127.0.0.1
BIN := .venv/bin
export PORT HOST ALLOW_HOST

.PHONY: run test web test-sd15 test-full test-space test-replicas lint fuzz benchmark screenshots corpus constraints clean

run: .venv/installed
	@echo "==> Starting the studio at http://$(HOST):$(PORT)"
	@$(BIN)/python app.py

test: .venv/installed-test lint
	@sh tests/browser/find_chromium.sh || echo "==> NO CHROMIUM: the browser tests can't run here"
	@echo "==> Running the tests, two at a time"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --ignore tests/browser
	@echo "==> Running the tests in a browser, two files at a time"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/browser

# A page that draws in its visitors' browsers, in the folder OUT.
OUT ?= site
web: .venv/installed-web
	@$(BIN)/python -m yoso_core export-web $(OUT)

lint: .venv/installed-test
	@echo "==> Checking the style"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# The Stable Diffusion path at full size, on random weights: minutes and 12 GB of memory.
test-sd15: .venv/installed-test
	@$(BIN)/python -m pytest -q -s tests/heavy/test_sd15.py

# Every family at full size, on random weights: the time and the most memory of a picture. 14 GB of disk, 24 of memory.
test-full: .venv/installed-test
	@$(BIN)/python -m pytest -q -s tests/heavy/test_full_size.py

# The repository as a Hugging Face Space: Python 3.12 with the platform's packages first, app.py on its way to lend a GPU.
SPACE := $(or $(TMPDIR),/tmp)/yoso-space
test-space: .venv/installed-test
	@test -x $(SPACE)/bin/python || python3.12 -m venv $(SPACE)
	@sed -n 's/^sdk_version: /gradio[oauth,mcp]==/p' README.md > $(SPACE)/platform.txt && echo spaces >> $(SPACE)/platform.txt
	@$(SPACE)/bin/python -m pip install --quiet --disable-pip-version-check -r $(SPACE)/platform.txt
	@$(SPACE)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@SPACE_PYTHON=$(SPACE)/bin/python $(BIN)/python -m pytest -q tests/heavy/test_zerogpu.py

# Replicas through Ray Serve: a package of 110 MB and a minute, which the suite does not pay for.
test-replicas: .venv/installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-ray.txt
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/replicas

# Some minutes of looking for a text, a prompt or a file that nobody thought of; other ones each time.
fuzz: .venv/installed-test
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q -n 2 -m hypothesis --ignore tests/browser --ignore tests/heavy tests

benchmark: .venv/installed
	@$(BIN)/python -m benchmarks.one_step --json benchmarks/one_step.json

# Every screenshot of README and docs, from the page as it is now.
screenshots: .venv/installed-test
	@sh tests/browser/find_chromium.sh && $(BIN)/python -m benchmarks.screenshots

corpus: .venv/installed-recipes
	@$(BIN)/python -m train.recipes.corpus.emoji --out data/emoji
	@$(BIN)/python -m train.recipes.corpus.art

.venv/bin/python:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 13) or sys.exit("YOSO Studio needs Python 3.11 or 3.12; name one: make PYTHON=python3.12")'
	@echo "==> Making .venv"
	@$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python constraints.txt
	@echo "==> Installing the pinned requirements (about 6 GB with torch; minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r constraints.txt
	@touch $@

.venv/installed-web: .venv/installed requirements-web.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-web.txt
	@touch $@

.venv/installed-test: .venv/installed requirements-test.txt requirements-ray.txt requirements-web.txt
	@echo "==> Installing what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

.venv/installed-recipes: .venv/installed requirements-recipes.txt
	@echo "==> Installing what the recipes need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-recipes.txt
	@touch $@

# After a change of the two: everything that it takes, whoever asks for it, with the hashes of its files.
constraints: .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip compile requirements.txt requirements-page.txt --universal --python-version 3.11 --upgrade --quiet --generate-hashes \
		--no-header --no-annotate --output-file constraints.txt

clean:
	rm -rf .venv
