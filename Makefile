# Every target sets up what it needs, virtual environment included. People and .ci/run call the same ones.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
LOWEST := .venv-lowest
OTHERS := .venv-libraries
PAGE   := .venv-browser
FLOORS := .venv-floors
WHEEL  := .venv-wheel
# Python compiles a module when it is first imported, and is to keep that: of torch and transformers most never are.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := install --quiet --no-compile

.PHONY: demo test slow lowest floors libraries browser check format lint types docs bench results weights push wheel clean

demo: $(VENV)/.installed  ## the finding and its repair, with a figure
	$(BIN)/labclip demo

test: $(VENV)/.dev  ## the tests, under three minutes
	$(BIN)/python -m pytest -n auto

slow: $(VENV)/.dev  ## the longer tests, on weights of the real size
	$(BIN)/python -m pytest -m slow -n auto

lowest: $(LOWEST)/.dev  ## the tests of the Hub and of transformers with clients before 1.0 and transformers 4
	$(LOWEST)/bin/python -m pytest -n auto $(patsubst %,tests/test_%.py,hub pretrained convert card folding folding_forms saving)
	$(LOWEST)/bin/python -m pytest -m libraries tests/test_libraries.py

floors: $(FLOORS)/.dev  ## the tests with the lowest versions that pyproject.toml names
	$(FLOORS)/bin/python -m pytest -n auto

libraries: $(OTHERS)/.dev  ## base and matrix on one index, in the libraries that people search with; what runs on Ray
	$(OTHERS)/bin/python -m pytest -m "ray or libraries" $(patsubst %,tests/test_%.py,libraries examples stored features_ray)

browser: $(PAGE)/.dev  ## the page of `labclip app` in chromium, which it looks for in CHROMIUM or /usr/bin/chromium
	$(PAGE)/bin/python -m pytest -m browser tests/test_app_browser.py

check: format lint types docs test  ## what a change must pass

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the generated parts are fresh, the site builds without a warning; tests/test_docs.py runs snippets
	$(BIN)/python docs/reference.py --check
	$(BIN)/python -m sphinx -q -j auto -W --keep-going -n docs docs/_build/html

bench: $(VENV)/.dev  ## the ratios that README and docs promise
	$(BIN)/python benchmarks/ratios.py --json benchmarks/ratios.json
	$(BIN)/python benchmarks/negatives.py --json benchmarks/negatives.json
	$(BIN)/python benchmarks/features.py --json benchmarks/features.json
	$(BIN)/python benchmarks/fit.py --json benchmarks/fit.json
	$(BIN)/python benchmarks/evaluation.py --json benchmarks/evaluation.json
	$(BIN)/python benchmarks/transform.py --json benchmarks/transform.json

results: $(VENV)/.installed  ## measures docs/results.md again: two minutes
	$(BIN)/python benchmarks/results.py
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/figures.py

weights: $(VENV)/.installed  ## makes the embedded model again: about ten minutes on two cores
	$(BIN)/python weights/make.py

push: $(VENV)/.installed  ## the embedded model and the cards of the published matrices to the Hub; ARGUMENTS=--dry-run
	$(BIN)/python weights/push.py $(ARGUMENTS)

wheel: $(VENV)/.dev  ## sdist and wheel, checked; the wheel in an environment of its own, with the network refused
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m venv --clear --without-pip $(WHEEL)
	$(BIN)/python -m pip --python $(WHEEL)/bin/python $(INSTALL) dist/*.whl
	$(BIN)/python -m pytest -m wheel

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip $(INSTALL) --editable .
	@touch $@

# Groups need the pip of the first step.
$(VENV)/.dev: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip $(INSTALL) --editable . --group dev
	@touch $(VENV)/.installed $@

$(VENV)/.docs: $(VENV)/.dev pyproject.toml
	$(BIN)/python -m pip $(INSTALL) --group docs
	@touch $@

# An environment on top of $(VENV): what is installed in it comes first, the rest is not installed again.
define on_top
	$(BIN)/python -m venv --without-pip $(1)
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> $$($(1)/bin/python -c "import site; print(site.getsitepackages()[0])")/below.pth
	$(BIN)/python -m pip --python $(1)/bin/python $(INSTALL) $(2)
	@touch $(1)/.dev
endef

$(LOWEST)/.dev: $(VENV)/.dev
	$(call on_top,$(LOWEST),"huggingface_hub==0.34.0" "transformers==4.57.*")

$(OTHERS)/.dev: $(VENV)/.dev
	$(call on_top,$(OTHERS),--group libraries)

$(PAGE)/.dev: $(VENV)/.dev
	$(call on_top,$(PAGE),--group browser)

# pip has no such choice.
$(FLOORS)/.dev: pyproject.toml
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet uv
	$(FLOORS)/bin/uv pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct --editable . --requirements pyproject.toml --group test
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(FLOORS) $(OTHERS) $(PAGE) $(WHEEL) dist build docs/_build
	rm -rf .pytest_cache .ruff_cache .mypy_cache .benchmarks
