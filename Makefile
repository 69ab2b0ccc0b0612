# Two commands do everything on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# The tensors of the demo and the tests are small: threads that wait for each other cost more.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test quick docs test-torch lint bench bench-gpu gallery fuzz fuzz-compiled \
	estimator-table clean
.DEFAULT_GOAL := test

demo: .venv/ready
	$(BIN)/ancestral demo --out out

test: .venv/ready
	$(BIN)/python -m pytest -n auto --dist worksteal

# The tests to run while one works: all but those that take the longest.
SLOW := estimators/exact estimators/elimination estimators/inference estimators/batched tools \
	estimators/baselines/test_learned.py estimators/pathwise estimators/gradient/test_terms.py \
	provenance/linear provenance/rules/test_op_database.py provenance/rules/test_layers.py \
	provenance/rules/test_kinks.py provenance/rules/test_mutations_of_rules.py provenance/rules/test_nn.py \
	provenance/algebra/test_alignments.py provenance/algebra/test_alignment.py trace/intercept \
	trace/nodes/test_lazy.py trace/nodes/test_masks.py trace/nodes/test_integers.py \
	trace/context/test_messages.py trace/graph/test_networks.py \
	trace/graph/test_independence_in_numbers.py estimators/gradient/test_pathwise.py \
	estimators/gradient/test_retention.py estimators/gradient/test_subtraction.py \
	estimators/gradient/test_inner_gradients.py estimators/gradient/test_loss_terms.py \
	estimators/gradient/test_coefficients.py test_documents.py test_mutations.py \
	test_mutations_of_patches.py test_examples.py test_readme.py test_fuzz.py

quick: .venv/ready
	$(BIN)/python -m pytest -n auto --dist worksteal -q $(addprefix --ignore=tests/,$(SLOW))

# The site, whose blocks are run while it is built: docs/_build/html/index.html
docs: .venv/ready
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

# What is promised, with another version of torch, in an environment beside .venv that is as it is
# but for that: make test-torch TORCH=2.15.0
TORCH ?= 2.15.0
OTHER := .venv-torch-$(TORCH)
SMOKE := test_readme.py guarantees test_mutations_of_patches.py \
	provenance/tensor/test_torch_internals.py provenance/rules/test_op_database.py \
	provenance/rules/test_functions.py trace/intercept/test_random_ops.py \
	trace/context/test_patch.py estimators/exact/test_exact.py

test-torch: $(OTHER)/ready
	$(OTHER)/bin/python -m pytest -n auto --dist loadfile $(addprefix tests/,$(SMOKE))

$(OTHER)/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	sed -e 's/^torch==.*/torch==$(TORCH)/' -e 's/^setuptools==.*/setuptools>=77/' constraints.txt \
		> $(OTHER)/requirements.txt
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(OTHER)/requirements.txt
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/mypy examples
	! grep -rnEf tests/banned_words.txt --include='*.py' --include='*.md' \
		provenance trace estimators tools ancestral examples docs README.md CONTRIBUTING.md CHANGELOG.md

# The figures of docs/measured.md, which it writes; some sections: make bench ONLY="ops steps"
bench: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m ancestral.tools.bench $(ONLY)  # the reference models are there

# The rows that have a device, on a GPU; it says so where there is none.
bench-gpu: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m ancestral.tools.bench.gpu

# Packages that sample, each with a small model, in environments of their own, and the page of them in
# docs/: make gallery ONLY=zuko
gallery: .venv/ready
	$(BIN)/python -m ancestral.tools.gallery $(ONLY)

# Random programs, as many as one likes: make fuzz N=20000 SEED=1
N ?= 2000
SEED ?= 0
fuzz: .venv/ready
	$(BIN)/python tests/fuzz.py --examples $(N) --seed $(SEED)

# Every estimator on every kind of program: exact, or refused; takes an hour.
estimator-table: .venv/ready
	$(BIN)/python tests/estimator_table.py

# Compiled steps beside recordings, on enumerated and random programs: make fuzz-compiled N=2000
fuzz-compiled: .venv/ready
	$(BIN)/python tests/fuzz_compiled.py --examples $(N) --seed $(SEED)

.venv/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[render,demo,study,dev,docs]'
	touch $@

clean:
	rm -rf .venv .venv-torch-* .gallery out build dist docs/_build *.egg-info
