# Each target is one command that a person could type. A target sets up what it needs first.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Before SHELL is set: make then starts find itself, and no shell that the caller configures.
WRITABLE := $(shell find . -maxdepth 0 -perm -o=w)
SHELL := /bin/bash

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Keeps bytecode on the disk even if the caller's environment forbids it: without bytecode each start of Ansible takes a
# second longer.
export PYTHONDONTWRITEBYTECODE :=
# Where make was started, also with -C: relative paths count from there.
export MISTRALRS_RPM_CALLER := $(value PWD)

# The caller's shell and Python have no part in a run; LANGUAGE would translate messages.
unexport BASH_ENV ENV CDPATH POSIXLY_CORRECT PYTHONPATH PYTHONHOME PYTHONSTARTUP LANGUAGE

# The variables of the command line reach recipes by the environment, as they were typed: make would expand a $ in them.
GIVEN := $(sort $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))

# Refuses variables that a target does not take, before anything is set up or touched.
checked:
	@$(if $(GIVEN),scripts/target check $(or $(MAKECMDGOALS),help) -- $(GIVEN))

# -- the pipeline

release: .venv/.ready ## build, package, sign, prove and publish a release
	@scripts/target play release $(ARGS)

prerelease: .venv/.ready ## the same with the newest commit, in the channel unstable
	@scripts/target play prerelease $(ARGS)

dev: .venv/.ready ## package any commit, or your own work
	@scripts/target play dev $(ARGS)

doctor: .venv/.ready ## check that a release can run, list each problem's fix
	@scripts/target play doctor $(ARGS)

warm: .venv/.ready ## compile ahead of time what is new, every night
	@scripts/target play warm $(ARGS)

reproduce: .venv/.ready ## build a release twice and compare the bytes
	@scripts/target play reproduce $(ARGS)

# -- what is published

status: .venv/.ready ## show and check it; fails if a check fails
	@scripts/target play status $(ARGS)

rollback: .venv/.ready ## publish the previous snapshot again, or another
	@scripts/target play rollback $(ARGS)

fingerprint: .venv/.ready ## show the signing key's, and the one that dnf shows
	@scripts/target play fingerprint $(ARGS)

yank: .venv/.ready ## remove packages for good
	@scripts/target play yank $(ARGS)

hold: .venv/.ready ## publish no release until make resume
	@scripts/target play hold $(ARGS)

resume: .venv/.ready ## end the hold
	@scripts/target play resume $(ARGS)

prune: .venv/.ready ## remove what the retention does not keep
	@scripts/target play prune $(ARGS)

rotate-key: .venv/.ready ## introduce the next signing key
	@scripts/target play rotate-key $(ARGS)

serve: .venv/.ready ## serve the local repositories until Ctrl-C
	PYTHONPATH=module_utils python -m pipeline.hosts.loopback_site .local/srv/rpm "$${PORT:-8643}"

# -- hosts

setup: .venv/.ready ## set up what releases need on this machine
	@:

provision: .venv/.ready ## make bare machines the hosts of INVENTORY
	@scripts/target play provision $(ARGS)

# The stamp contains the folder's name: a checkout that was moved is set up again, and so is one whose Python is gone or
# was replaced.
.venv/.ready: $(if $(WRITABLE),writable) \
		requirements.lock bindep.txt scripts/setup .python-version .venv/bin/python \
		$(if $(filter-out $(CURDIR),$(file <.venv/.ready)),moved) | checked
	@scripts/setup
.venv/.ready-tests: .venv/.ready requirements-tests.lock
	@scripts/setup tests
.venv/bin/python: ;
moved: ;
# Ansible ignores the ansible.cfg of such a folder, and then finds no module.
writable:
	@printf '%s\n' 'Every account may write to this checkout, and so decide what is signed: $(CURDIR)' \
		"Check what it contains, then run: chmod -R o-w '$(CURDIR)'" >&2; exit 1

# -- tests

test: lint ## run the linters, then all tests in parallel
	scripts/test $(ARGS)

unit: .venv/.ready-tests ## run the quick tests
	pytest -n auto --maxprocesses 4 tests/unit $(ARGS)

lint: .venv/.ready-tests ## run the linters and type checks
	ruff check
	ruff format --check
	mypy
	yamllint --strict .
	shellcheck scripts/setup scripts/system-tree scripts/molecule scripts/test scripts/completion.bash .ci/run \
		rpm/mistralrs-which-flavour
	ansible-lint --offline
	ansible-playbook --syntax-check $(wildcard playbooks/*.yml)

molecule: .venv/.ready-tests ## test the roles on real systemd hosts; needs root
	scripts/molecule $${SCENARIO:+"$$SCENARIO"}

faults: .venv/.ready-tests ## run tests/faults in the long form, 45 minutes
	FAULTS=long pytest -s tests/faults $(ARGS)
	FAULTS=long scripts/molecule release

bench: .venv/.ready-tests ## measure a release, and a real payload's compression
	pytest tests/bench/test_release.py tests/bench/test_payload.py $(ARGS)

bench-build: .venv/.ready-tests ## measure builds: clean, warm, a changed file
	pytest tests/bench/test_build.py tests/bench/test_sandbox.py $(ARGS)

bench-channel: .venv/.ready-tests ## measure publishing into 10,000 packages
	pytest tests/bench/test_channel.py $(ARGS)

# -- the rest

help: checked ## print this
	@scripts/target help

lock: .venv/.ready ## update the lock files and the pins of CUDA, Rust, sccache
	python scripts/lock

clean: checked ## remove .local: builds, caches, key AND local repositories
	rm -rf .local

distclean: clean ## remove .venv and the caches of tools too
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .ansible
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: checked help setup moved writable release prerelease doctor status fingerprint rollback yank prune rotate-key serve
.PHONY: provision hold resume test unit lint molecule faults reproduce dev warm
.PHONY: bench bench-build bench-channel lock clean distclean
