# Everything is built into _output, which has the shape of an install prefix:
# _output/bin, _output/lib/msb; beside them, for tests and the demo only,
# _output/tools and _output/images. "make help" lists the targets.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-builtin-rules --no-print-directory --silent
.DEFAULT_GOAL := help

OUTPUT  := $(CURDIR)/_output
KIT     := $(OUTPUT)/lib/msb
TOOLS   := $(OUTPUT)/tools
SHIM    := $(OUTPUT)/bin/containerd-shim-msb-v2
AGENT   := $(OUTPUT)/guest/msb-agent
RUNC    := $(OUTPUT)/guest/runc
IMAGE   := $(OUTPUT)/images/busybox.tar
KRUNFW  := $(OUTPUT)/lib/msb/libkrunfw.so.5

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

MODULE  := github.com/msb-runtime/containerd-shim-msb
GOBUILD := go build -trimpath -ldflags '-s -w -X $(MODULE)/shim/version.Version=$(VERSION)'

STEP := hack/step
DEPS := hack/deps

.PHONY: help build shim agent kit tools demo test test-unit test-e2e bench lint proto install uninstall clean

help: ## list the targets
	@echo "make TARGET, one of:"
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo "What a target needs and is missing it installs, as root on Debian, or names."

build: shim kit ## build the shim and the guest kit into _output

demo: build tools ## run a container in a microVM and show what it can and cannot do (root)
	@hack/demo

test: lint test-unit test-e2e ## lint, unit tests and end-to-end tests

test-unit: ## the tests that need no VM, with the race detector (root for those that mount)
	@$(DEPS) gcc
	@echo "==> unit tests"
	@go test -race -count=1 $$(go list ./... | grep -v /test/)

test-e2e: build tools ## end to end: a real containerd, real microVMs (root)
	@hack/need-root test-e2e
	@echo "==> end-to-end tests (each microVM boots in a second or two without KVM)"
	@MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout 40m ./test/e2e/...

bench: build tools ## measure, against runc on this machine, and print a table (root)
	@hack/need-root bench
	@MSB_OUTPUT=$(OUTPUT) go run ./test/bench

lint: ## go vet, staticcheck, gofumpt
	@$(STEP) "building the linters" bash -c 'cd hack/tools/lint && GOBIN=$(TOOLS) go install tool'
	@for dir in . hack; do \
		(cd $$dir && go vet ./... && $(TOOLS)/staticcheck ./...); \
	done
	@unformatted=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs $(TOOLS)/gofumpt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofumpt -w on:"; echo "$$unformatted"; exit 1; fi
	@echo "==> lint: nothing to complain about"

proto: ## generate the guest protocol's Go code from guest/api/guest.proto
	@$(DEPS) protoc
	@$(STEP) "building protoc's plugins" bash -c 'cd hack/tools/proto && GOBIN=$(TOOLS) go install tool'
	@PATH=$(TOOLS):$$PATH protoc -I . -I /usr/include \
		--go_out=. --go_opt=paths=source_relative \
		--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative guest/api/guest.proto

install: build ## install the shim and the kit below PREFIX (default /usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/msb
	install -m 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/
	install -m 0644 $(KIT)/vmlinux $(KIT)/guest.erofs $(KIT)/VERSIONS $(DESTDIR)$(PREFIX)/lib/msb/
	install -m 0755 $(KRUNFW) $(DESTDIR)$(PREFIX)/lib/msb/

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/containerd-shim-msb-v2
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/msb/,vmlinux guest.erofs VERSIONS libkrunfw.so.5)
	-rmdir $(DESTDIR)$(PREFIX)/lib/msb

clean: ## remove what was built, but not what was downloaded
	rm -rf $(addprefix $(OUTPUT)/,bin lib guest tools images log)

# The parts. Go knows itself what of our own programs has changed, and leaves
# the file alone if nothing has.

shim:
	@$(STEP) "building the shim" env CGO_ENABLED=0 $(GOBUILD) -o $(SHIM) ./cmd/containerd-shim-msb-v2

agent:
	@$(STEP) "building the agent" env CGO_ENABLED=0 $(GOBUILD) -o $(AGENT) ./cmd/msb-agent

kit: agent
	@$(DEPS) qemu virtiofsd erofs seccomp gcc
	@$(MAKE) $(KIT)/vmlinux $(KIT)/guest.erofs $(KIT)/VERSIONS

tools:
	@$(DEPS) busybox
	@$(MAKE) $(TOOLS)/containerd $(TOOLS)/runc $(IMAGE)

$(KRUNFW): hack/libkrunfw
	@hack/libkrunfw $@

$(KIT)/vmlinux: $(KRUNFW) hack/kernel/main.go
	@$(STEP) "wrapping the guest's kernel for QEMU" go run -C hack ./kernel $(KRUNFW) $@

$(RUNC): hack/tools/runc/go.mod
	@$(STEP) "building runc for the guest (static, about a minute when new)" env CGO_ENABLED=1 \
		go build -C hack/tools/runc -trimpath -tags 'seccomp netgo osusergo' \
		-ldflags '-s -w -extldflags -static' -o $@ github.com/opencontainers/runc
	@touch $@

$(KIT)/guest.erofs: $(AGENT) $(RUNC) hack/guest-image
	@$(STEP) "making the guest's disk" hack/guest-image $(AGENT) $(RUNC) $@

$(KIT)/VERSIONS: $(RUNC) $(KRUNFW)
	@{ echo "msb $(VERSION)"; $(RUNC) --version; sha256sum $(KRUNFW) | sed 's#  .*#  libkrunfw.so.5#'; } >$@

$(TOOLS)/containerd: hack/tools/containerd/go.mod
	@$(STEP) "building containerd and ctr (one or two minutes when new)" env CGO_ENABLED=0 \
		go build -C hack/tools/containerd -trimpath -tags 'no_btrfs no_devmapper no_zfs' -o $(TOOLS)/ \
		github.com/containerd/containerd/v2/cmd/containerd \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
		github.com/containerd/containerd/v2/cmd/ctr
	@touch $@

$(TOOLS)/runc: $(RUNC)
	@install -D -m 0755 $(RUNC) $@

$(IMAGE): hack/image/main.go
	@mkdir -p $(@D)
	@$(STEP) "building the busybox image" go run -C hack ./image "$$(command -v busybox)" $@
