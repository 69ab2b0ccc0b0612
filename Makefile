# Two commands do everything on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# The tensors of the demo and the tests are small: threads that wait for each other cost more.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint bench fuzz clean
.DEFAULT_GOAL := test

demo: .venv/ready
	$(BIN)/ancestral demo --out out

test: .venv/ready
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/mypy examples

bench: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m ancestral.tools.bench  # the reference models are there

# Random programs, as many as one likes: make fuzz N=20000 SEED=1
N ?= 2000
SEED ?= 0
fuzz: .venv/ready
	$(BIN)/python tests/fuzz.py --examples $(N) --seed $(SEED)

.venv/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[render,demo,dev]'
	touch $@

clean:
	rm -rf .venv out build dist *.egg-info
