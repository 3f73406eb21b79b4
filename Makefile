# Every command sets up what it needs (virtual environment, packages, base model) and is quick when that is done.
PYTHON ?= python3
PY := .venv/bin/python
# Two processes fit the smallest machine that runs the tests: 2 cores, 8 GB.
WORKERS ?= 2
# One thread a process, and kernels without progress bars, as tools/build_notebooks.py runs them.
TEST_ENV := OMP_NUM_THREADS=1 TQDM_DISABLE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false \
	LORA_EDU_LANGUAGE=
# For a machine without a screen: make lab LAB_ARGS=--no-browser
LAB_ARGS ?=
# To keep a record: make bench BENCH_ARGS="--folder data/bench"
BENCH_ARGS ?=
# For other machines than this one, or as one archive: make kit KIT_ARGS="--platform all --archive"
KIT_ARGS ?=

# What the course uses and Colab preinstalls. torchao is there because peft looks at it; the tests ask for hypothesis.
COLAB_PACKAGES := numpy matplotlib ipython ipykernel ipywidgets nbconvert transformers peft accelerate \
	safetensors filelock tqdm psutil scikit-learn torchao pip pytest hypothesis

# The longest first, so that no process is left alone with one of them at the end.
LONG := $(foreach number,10 11 06,$(wildcard notebooks/$(number)_*.ipynb))
NOTEBOOKS := $(LONG) $(filter-out $(LONG),$(wildcard notebooks/*.ipynb))
# The language-model notebooks run once, as learners get them: their solutions repeat the same fine-tunes.
SOLUTIONS := $(filter-out $(addprefix notebooks/solutions/,06_% 10_% 11_%),$(wildcard notebooks/solutions/*.ipynb))
# Translations: the learner's notebooks alone, whose outputs are in the other language.
TRANSLATED := $(wildcard notebooks/[a-z][a-z]/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help course book slides site publish-check lab kit chat test check test-colab test-gpu notebooks-gpu binder-limit \
	bench notebooks constraints constraints-colab repo clean set-up-course set-up-book set-up-test

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 19

course: set-up-book ## run the whole course, fine-tune included; its book in build/course/
	$(PY) -m tools.run_course

book: set-up-book ## the stored notebooks as a book, read in a browser without Python, in build/book/; and slides
	$(PY) -m tools.book

slides: set-up-book ## a deck of slides for each stored notebook, alone, in build/slides/
	$(PY) -m tools.slides

site: book ## what GitHub Pages publishes, in build/site/: the book, and beside it what else is built
	$(PY) -m tools.publish

publish-check: ## say where the repository still has the name that the course comes with
	@$(PYTHON) tools/set_repo.py --check

# The root is the repository, not work/: a notebook's links to docs/ would lead out of it. The settings are for this
# launch; those that you chose yourself come first.
lab: set-up-course ## open JupyterLab on your own copies of the notebooks, in work/
	$(PY) tools/working_copies.py
	JUPYTER_CONFIG_PATH="$(CURDIR)/configs/jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
		$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/work $(LAB_ARGS)

kit: book ## the course for machines without a network, in build/kit/: KIT_ARGS="--platform all --archive"
	$(PY) -m tools.kit $(KIT_ARGS)

chat: set-up-book ## chat with the base model and its adapters in your browser, nothing leaves the machine
	$(PY) -m tools.chat_page

test: check ## everything CI runs: make check, the tests, every notebook compared with its stored output
	$(TEST_ENV) $(PY) -m pytest -p tests.ci_guard -p tests.films -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--nbval --nbval-current-env --nbval-cell-timeout=1800 --ignore=tests/browser/book $(NOTEBOOKS) $(SOLUTIONS) \
		$(TRANSLATED) tests
	$(PY) -m tests.films
	$(PY) -m tools.book
	$(TEST_ENV) $(PY) -m pytest -p tests.ci_guard -n $(WORKERS) --dist loadgroup tests/browser/book

check: set-up-test ## style, types, and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

test-colab: set-up-test ## the part of make test that runs with Colab's versions, in .venv-colab
	$(TEST_ENV) $(PY) -m pytest -p tests.ci_guard tests/environments/test_colab.py

binder-limit: set-up-test ## every notebook on one core, within the memory that Binder gives
	$(PY) -m tools.binder_limit

test-gpu: set-up-test ## the tests that need a CUDA device; make notebooks-gpu runs the notebooks on it
	$(PY) -m pytest -m gpu tests

notebooks-gpu: set-up-test ## every notebook on a CUDA device; record and executed copies in build/notebooks_gpu/
	$(PY) -m tools.run_on_gpu --output build/notebooks_gpu/notebooks_gpu.json

bench: set-up-test ## time and memory against bitsandbytes, torchao, peft, scipy; a dated JSON in build/bench/
	$(PY) -m benchmarks $(BENCH_ARGS)

notebooks: set-up-test ## rebuild the notebooks whose source in notebooks/src/ has changed
	$(PY) -m tools.build_notebooks
	$(PY) -m tools.translate build

constraints: set-up-test ## pin what pyproject.toml asks for; newer versions: make constraints UPGRADE=--upgrade
	UV_CUSTOM_COMPILE_COMMAND="make constraints" .venv/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --all-extras --no-annotate $(UPGRADE) pyproject.toml -o constraints.txt
	# torch itself pins what it needs for a GPU.
	grep -vE '^(nvidia|cuda|triton)' constraints.txt > constraints.part
	mv constraints.part constraints.txt

constraints-colab: set-up-test ## pin what Colab preinstalls: make constraints-colab FREEZE=pip-freeze.txt
	# The list is published in github.com/googlecolab/backend-info. PyTorch, and what it pins itself, stay ours.
	mkdir -p build
	grep -E '^[A-Za-z0-9_.-]+==' $(FREEZE) | grep -vE '^((torch|triton|setuptools)==|nvidia|cuda)' > build/colab.txt
	printf '%s\n' $$(grep ^torch== constraints.txt) $(COLAB_PACKAGES) | \
		UV_CUSTOM_COMPILE_COMMAND="make constraints-colab" .venv/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --no-annotate -c build/colab.txt - -o build/requirements-colab.txt
	grep -vE '^(torch==|triton|nvidia|cuda)' build/requirements-colab.txt > requirements-colab.txt

repo: ## name the repository everywhere: make repo REPO=owner/name
	@$(PYTHON) tools/set_repo.py "$(REPO)"

clean: ## remove build/ and caches; .venv and your notebooks in work/ stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis .import_linter_cache

set-up-course set-up-book set-up-test: set-up-%:
	@$(PYTHON) tools/setup_env.py $*
