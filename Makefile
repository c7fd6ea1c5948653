# `make demo` and `make test` are the two commands of the README; `make help` lists the rest.
#
# The environment lives in .venv, comes from the locks in requirements/ (hashes checked), and is made once: a stamp in
# .venv remembers which lock it was made from. pip brings uv, so that an index set for pip is honoured; uv does the
# rest in seconds where pip takes minutes. Where uv can't reach what pip can, pip does it all.

PYTHON ?= python3.11
BIN := .venv/bin
DEMO := .venv/.demo-ready
DEV := .venv/.dev-ready
CLIENTS := .venv-clients/.ready
# Bytecode is kept even where the shell says not to: without it every start compiles a few thousand files again.
unexport PYTHONDONTWRITEBYTECODE
COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help demo check fast slow test format lock protos clean containers env

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | column -t -s '|'

demo: $(DEMO) ## train, publish, serve and predict on real digits, in .venv and ./workspace
	@$(BIN)/calotype demo

test: check slow ## everything: format, lint, types, import rules, fast tests, slow tests

check: $(DEV) ## format, lint, types, import rules, fast tests
	@echo '== format' && $(BIN)/ruff format --check -q .
	@echo '== lint' && $(BIN)/ruff check -q .
	@echo '== types' && $(BIN)/mypy --no-error-summary
	@echo '== import rules' && $(BIN)/lint-imports --no-logo >.venv/imports.log 2>&1 || { cat .venv/imports.log; exit 1; }
	@echo '== fast tests' && $(BIN)/pytest -q -m 'not slow' -n 2

slow: $(DEV)
	@echo '== slow tests' && $(BIN)/pytest -q -m slow -n 2 --dist loadfile

format: $(DEV) ## put the code in its form
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

protos: $(DEV) ## generate serving/v1 and serving/v2 from protos/
	@$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. \
		$$(cd protos && find . -name '*.proto' | sed 's|^\./||' | sort)

containers: ## build the images, start the deployment, hit it, and take it down (PROVE=--kills: harder); needs Docker or Podman with compose
	@bash -c 'source .ci/engine && exec $(PYTHON) deploy/prove $(PROVE)'

env: ## .env with passwords for docker-compose.yml, at random, and the inbox for images; leaves what is there
	@mkdir -p inbox
	@test -e .env || { umask 077 && while read -r line; do case $$line in \
		*PASSWORD=) echo "$$line$$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')" ;; *) echo "$$line" ;; esac; \
		done <.env.example >.env; }

clients: $(CLIENTS) ## the environment of other people's clients, which the wire tests use

lock: ## resolve the newest compatible versions anew
	@$(COMPILE) --group bootstrap -o requirements/bootstrap.lock
	@$(COMPILE) pyproject.toml --extra demo -o requirements/demo.lock
	@$(COMPILE) pyproject.toml --extra demo --extra bucket --extra tracing --group dev -c requirements/demo.lock -o requirements/dev.lock
	@$(COMPILE) pyproject.toml --extra serving --extra bucket --extra tracing -c requirements/dev.lock -o requirements/serving.lock
	@$(COMPILE) pyproject.toml requirements/pipelines.in --override requirements/pipelines.overrides \
		--extra demo --extra bucket --extra tracing -c requirements/dev.lock -o requirements/pipelines.lock
	@$(COMPILE) requirements/clients.in -o requirements/clients.lock

clean: ## remove the environments and caches; ./workspace stays
	@rm -rf .venv .venv-clients .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# install ENVIRONMENT LOCK: what the lock says, by uv, or by pip where uv can't.
define install
	@echo "Installing $(2) into $(1) ..."
	@$(BIN)/uv pip install -q --python $(1)/bin/python --require-hashes -r $(2) 2>.venv/uv.log \
		|| { echo "uv could not (its words are in .venv/uv.log); pip tries."; \
		     $(1)/bin/python -m pip install -q --require-hashes -r $(2); }
endef

.venv/.bootstrapped: requirements/bootstrap.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; name another: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@touch $@

$(DEMO): .venv/.bootstrapped requirements/demo.lock pyproject.toml
	$(call install,.venv,requirements/demo.lock)
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

$(DEV): $(DEMO) requirements/dev.lock
	$(call install,.venv,requirements/dev.lock)
	@touch $@

$(CLIENTS): .venv/.bootstrapped requirements/clients.lock
	@test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	$(call install,.venv-clients,requirements/clients.lock)
	@touch $@
