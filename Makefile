PYTHON ?= python3
# Two workers suit two cores; a test file stays with one worker, which compiles its kernels once.
PYTEST_FLAGS ?= --numprocesses 2 --dist loadscope
# A release of torchvision fits one of torch: the two move together, and by decision.
TORCH ?= torch==2.14.1 torchvision==0.29.1

BIN := .venv/bin
READY := .venv/.setup-complete

.DEFAULT_GOAL := help
.PHONY: help setup quickstart notebooks results finetune-photos test test-quick test-thorough test-gpu gpu-check test-loggers fuzz fuzzfiles sweep killtest killcommands multinode slurmtest docker-check release-check walkthrough lint format docs constraints clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Install what the project needs: system packages (with apt) and .venv
	@echo "setup: .venv is ready"

$(READY): pyproject.toml setup.py constraints.txt tools/setup.sh $(wildcard eca_lightning/data/ffcv/native/* eca_lightning/data/ffcv/native/packed/*)
	@PYTHON="$(PYTHON)" bash tools/setup.sh
	@touch $@

quickstart: $(READY) ## Write Fashion-MNIST to .beton, train a small ECA-Net, validate the best epoch
	$(BIN)/eca-lightning data write fashion-mnist
	$(BIN)/eca-lightning fit --config configs/quickstart.yaml
	@best=$$(ls -t runs/quickstart/version_*/checkpoints/best.ckpt | head -n 1); \
	test -n "$$best" && \
	echo '$(BIN)/eca-lightning validate --config configs/quickstart.yaml --ckpt_path' "$$best" && \
	$(BIN)/eca-lightning validate --config configs/quickstart.yaml --ckpt_path "$$best" && \
	printf '%s\n' '' \
		'Quickstart done. Its accuracy is in the table above; the rest is here:' \
		"  the run     $${best%/checkpoints/*}" \
		"  its best    $$best" \
		'  its curves  $(BIN)/tensorboard --logdir runs'

finetune-photos: $(READY) ## Fine-tune on crops of photographs, from weights of the quickstart and from scratch
	test -d runs/quickstart/version_0 || $(MAKE) quickstart
	$(BIN)/python tools/photo_classes.py data/photo_classes
	$(BIN)/eca-lightning compare configs/ablation/finetune_photos.yaml

notebooks: $(READY) data/fashion_mnist data/fashion_coco ## Execute the notebooks; runs/notebooks gets them with their figures
	mkdir -p runs/notebooks
	$(BIN)/jupyter execute notebooks/*.ipynb --output='../runs/notebooks/{notebook_name}'

data/fashion_mnist: | $(READY)
	$(BIN)/eca-lightning data write fashion-mnist

data/fashion_coco: | $(READY)
	$(BIN)/eca-lightning data write fashion-coco

results: $(READY) ## Fill the tables of RESULTS.md from the files in results/
	$(BIN)/python tools/results.py

test: $(READY) ## Run all tests but those that need a GPU or only repeat others
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_FLAGS) -m "not gpu and not thorough"

test-quick: $(READY) ## Run the tests that take at most a second
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_FLAGS) -m "not gpu and not thorough and not slow"

test-thorough: $(READY) ## Run the tests that repeat others on more networks, options and files
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_FLAGS) -m "not gpu and thorough"

test-gpu: $(READY) ## Run the tests that need a GPU
	$(BIN)/pytest -m gpu

gpu-check: $(READY) ## Check and time everything on a GPU, in nine minutes; results/gpu gets the figures
	$(BIN)/python tests/gpu/gpu_check.py

test-loggers: $(READY) ## Test Weights & Biases and MLflow, which build/loggers gets (190 MB)
	$(BIN)/pip install --quiet --upgrade --target build/loggers --constraint constraints.txt \
		wandb mlflow-skinny
	PYTHONPATH=build/loggers $(BIN)/pytest tests/training/test_run_loggers.py

fuzz: $(READY) ## Decode damaged images under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/python tests/data/ffcv/fuzz_crop_decode.py --count 20000
	$(BIN)/python tests/data/ffcv/packed/fuzz_packed.py --count 200000
	FUZZED_BETONS=500 $(BIN)/pytest tests/data/ffcv/test_damaged_betons.py -k packed

sweep: $(READY) ## Import and export weights of every ResNet of timm and torchvision; docs/weights.md
	COLUMNS=200 $(BIN)/python tests/weights/sweep.py

fuzzfiles: $(READY) ## Run commands on 300 mutated checkpoints, sidecars, configs and COCO files
	FUZZED_FILES=300 $(BIN)/pytest tests/contracts/test_fuzzed_files.py

release-check: $(READY) ## Build the wheel and try it in empty environments, alone and with all extras
	$(BIN)/python tools/release_check.py

docker-check: $(READY) ## Build the Dockerfile without a Docker engine, and try what it makes (as root)
	$(BIN)/python tools/docker_check.py

killtest: $(READY) ## Stop a run of two ranks 30 times, at random moments, and compare how it ends
	KILLED_RANKS=30 $(BIN)/pytest -s tests/contracts/test_killed_ranks.py

killcommands: $(READY) ## Kill data write, fit, export, import and compare at 20 random moments each
	KILLED_COMMANDS=20 $(BIN)/pytest tests/contracts/test_killed_commands.py

multinode: $(READY) ## Lose one of two hosts (network namespaces, as root) and go on when it is back
	$(BIN)/python tests/contracts/multinode.py

slurmtest: $(READY) ## Stop jobs of a private Slurm of two nodes in every way (Debian, as root)
	$(BIN)/python tests/contracts/slurm_jobs.py

walkthrough: $(READY) ## Type docs/imagenet.md line by line, on a small ImageNet
	$(BIN)/python tests/walkthrough.py

lint: $(READY) ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY) ## Fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## Write reference and pictures from the code, and docs/ as a site to build/site
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/pictures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Open build/site/index.html"

constraints: ## Resolve every dependency afresh into constraints.txt (with Python 3.10 and 3.11)
	$(PYTHON) tools/constraints.py python3.10 python3.11 $(TORCH)

clean: ## Remove .venv, caches and build files, but neither data nor runs
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find eca_lightning tests tools -name __pycache__ -prune -exec rm -rf {} +
