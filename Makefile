# Everything is built into _output, which has the shape of an install prefix:
# _output/bin, _output/lib/msb; beside them, for tests and the demo only,
# _output/tools and _output/images. "make help" lists the targets.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS   += --no-builtin-rules --no-print-directory --silent
.DEFAULT_GOAL := help
.NOTPARALLEL:

OUTPUT  := $(CURDIR)/_output
KIT     := $(OUTPUT)/lib/msb
TOOLS   := $(OUTPUT)/tools
SHIM    := $(OUTPUT)/bin/containerd-shim-msb-v2
CTL     := $(OUTPUT)/bin/msbctl
AGENT   := $(OUTPUT)/guest/msb-agent
CRUN    := $(OUTPUT)/guest/crun
IMAGE   := $(OUTPUT)/images/busybox.tar
LAYERS  := $(OUTPUT)/images/layers.tar
KRUNFW  := $(OUTPUT)/guest/libkrunfw.so.5
LINUX   := $(OUTPUT)/guest/vmlinux
KRUN    := $(KIT)/libkrun.so.1
VIRTIOFSD := $(KIT)/virtiofsd
VMM     := $(KIT)/msb-krun
SHIELD  := $(KIT)/msb-shield
PLACEHOLDER := $(KIT)/msb-placeholder
SHARE   := $(OUTPUT)/share
PACKAGES := $(OUTPUT)/packages
NFPM    := $(TOOLS)/nfpm
PROBE   := $(TOOLS)/probe
HOSTILE := $(TOOLS)/hostile/guest.erofs
NERDCTL := $(TOOLS)/nerdctl
DOCKER := $(OUTPUT)/cache/docker
BUILDKIT := $(OUTPUT)/cache/buildkit
CRITEST := $(TOOLS)/critest
CRIMAGES := $(OUTPUT)/images/critest
SUITEIMAGES := $(OUTPUT)/images/containerd
ORIGIN  := $(OUTPUT)/guest/libkrunfw.origin
INSTALL := $(OUTPUT)/install
KUBERNETES := $(OUTPUT)/kubernetes

RESULTS := $(OUTPUT)/results

# How long the tests of one package may take: it ends what hangs.
MSB_TIMEOUT ?= 3h

# Which kernel the guest has: msb is built from source; libkrunfw is the one that libkrunfw
# carries, which also is vmlinux-tsi, for the host's network under libkrun.
KERNEL  ?= msb

PREFIX  ?= /usr/local
DESTDIR ?=
IMAGE_NAME ?= localhost/msb-install:latest
# Where zsh looks for completions: Debian's looks elsewhere, in zsh/vendor-completions.
ZSH_FUNCTIONS ?= zsh/site-functions
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Everything is built alike, tests and linters too, so that go compiles each package once.
# Without -buildvcs=false it asks git, and fails when root builds another user's clone. The
# version is in the shim and msbctl only, so that a commit alone changes no guest.
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false -trimpath $(filter-out -buildvcs=false -trimpath,$(GOFLAGS))

STEP := hack/step
DEPS := hack/deps

# Replaces a target by what its recipe wrote to TARGET.PID, if that differs: what
# depends on the target is then made again only when there is a reason to.
REPLACE = if cmp -s $@.$$$$ $@; then rm $@.$$$$; else mv $@.$$$$ $@; fi

.PHONY: test-mutations test-mutations-vm test-long parts guest-table help build shim ctl agent vmm shield placeholder probe hostile kit kernel deps-krun deps-qemu tools demo shell test contract test-contract test-unit test-scripts test-e2e test-nerdctl test-hostile test-1.7 test-race test-krun test-qemu-kvm test-kubernetes test-arm64 test-docker docker docker-table test-buildkit buildkit bench bench-boot bench-trace bench-files bench-files-krun bench-krun lint proto tests \
	conformance conformance-critest conformance-client conformance-integration test-conformance critest suites containerd-1.7 \
	install install-kit uninstall share packer packages test-packages test-systemd image clean distclean root clients guests kubernetes always

help: ## list the targets
	@echo "make TARGET, one of:"
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo "What a target needs and is missing it installs, as root on Debian, or names."

build: shim ctl kit ## build the shim, msbctl and the guest kit into _output

# Those who only try it need not wait for the kernel: until it is built they get libkrunfw's.
demo demo-% shell: export KERNEL := $(if $(wildcard $(LINUX)),$(KERNEL),libkrunfw)

demo: root build tools ## run containers in microVMs and show what they can and cannot do (root)
	@hack/containerd-private hack/demo

demo-%: root build tools $(TOOLS)/%/containerd # under another containerd: 1.7, 2.0 to 2.3
	@MSB_CONTAINERD=$* hack/containerd-private hack/demo

shell: root build tools ## a shell with a private containerd to try things in (root)
	@hack/containerd-private hack/shell

# What all lanes build or install is there before them, so that they do not do so at once; what
# needs no VM runs meanwhile, beside the kernel's build. The longest begin first. A package has
# msb's kernel, so with another one there is none to test. The contract's table is of what three
# lanes say. ALSO has more lanes.
ALSO  ?=
LANES ?= test-unit test-scripts lint test-e2e test-krun test-race $(ALSO) test-docker test-qemu-kvm test-packages test-nerdctl test-1.7
MEANWHILE := $(filter test-unit test-scripts lint,$(LANES))
WITH_KIT := $(filter-out $(MEANWHILE) $(if $(filter msb,$(KERNEL)),,test-packages),$(LANES))
test: root ## lint, unit and end-to-end tests, and the table of the contract of a mount (root)
	@$(DEPS) gcc make bc bison flex libelf-dev xz dpkg-deb keyring qemu virtiofsd erofs seccomp busybox pgrep mke2fs npm fakeroot \
		cargo patch libcap-ng-dev libcap-dev libyajl-dev pkg-config python3 iptables nft wg ip systemd mkfs.xfs lsof shellcheck rpm
	@hack/lanes parts $(if $(filter msb,$(KERNEL)),kernel) then build then $(WITH_KIT) \
		$(if $(MEANWHILE),meanwhile $(MEANWHILE)) $(if $(filter-out $(LANES),test-unit test-e2e test-krun),,at-last test-contract)

# What the lanes take, but for the kernel.
parts: shim agent vmm placeholder shield tools tests hostile clients guests docker deps-krun deps-qemu containerd-1.7 $(if $(MSB_LONG),kubernetes) $(if $(findstring conformance,$(WITH_KIT)),critest suites) $(if $(findstring buildkit,$(WITH_KIT)),buildkit) $(if $(filter test-packages,$(WITH_KIT)),packer)

test-contract: ## whether the table of the contract of a mount says what the last tests said
	@echo "==> the contract of a mount"
	@MSB_RESULTS=$(RESULTS) go test -count=1 -v ./test/contract

guest-table: root build tools ## write the table of what a guest can do into docs/guest.md (root)
	@MSB_OUTPUT=$(OUTPUT) go test -count=1 -run '^TestGuestTable$$' ./test/e2e -update-guest

contract: ## write the table of the last "make test" into docs/file-mounts.md
	@MSB_RESULTS=$(RESULTS) go test -count=1 ./test/contract -update

# Many of these wait: for what takes a second, for a bound's time, for a hook. So one package more than
# there are processors is tested at once, and up to four tests of each. The race detector waits a second when
# a program ends, for what else is running there: here a tenth of that.
test-unit test-scripts: export GORACE := atexit_sleep_ms=100
test-unit: ## the tests that need no VM, with the race detector (root for those that mount)
	@$(DEPS) gcc
	@mkdir -p $(RESULTS)
	@echo "==> unit tests, and an intruder in the VMM's place"
	@CGO_ENABLED=1 go test -race -count=1 -p $$(($$(nproc) + 1)) -parallel 4 -v ./cmd/... ./ctl/... ./deploy/... ./guest/... ./internal/... ./shim/... ./vm/... ./test/bench ./test/document ./test/fake ./test/harness ./test/rig ./test/rights ./test/hoststate ./test/hostile/... ./test/itself ./test/mutation ./test/conformance/expect ./test/conformance/registry | tee -i $(RESULTS)/host.log

test-scripts: ## the tests of hack/, which wait more than they do
	@$(DEPS) gcc
	@echo "==> tests of the scripts"
	@CGO_ENABLED=1 go test -C hack -race -count=1 -parallel 8 -v . ./bill

# The programs of tests that several lanes run, which go links once. A test is run in its package's
# folder.
tests:
	@$(STEP) "building the tests" go test -c -o $(OUTPUT)/test/ ./test/e2e ./test/pod ./test/hostile

TESTS = (cd test/$(1) && exec $(OUTPUT)/test/$(1).test -test.v -test.timeout $(MSB_TIMEOUT) $(2))

test-e2e: root build tools tests hostile clients guests docker deps-qemu $(if $(MSB_LONG),kubernetes) ## end to end: a real containerd, real microVMs (root)
	@echo "==> end-to-end tests (each microVM boots in a second or two without KVM)"
	@mkdir -p $(RESULTS)
	@export MSB_OUTPUT=$(OUTPUT); $(call TESTS,e2e,-test.skip '$(RACED)') | tee -i $(RESULTS)/qemu.log

test-nerdctl: root build tools clients deps-qemu ## nerdctl and its compose, with spare VMs (root)
	@echo "==> nerdctl"
	@mkdir -p $(RESULTS)
	@MSB_OUTPUT=$(OUTPUT) MSB_SPARES=1 go test -count=1 -v -timeout $(MSB_TIMEOUT) ./test/nerdctl | tee -i $(RESULTS)/nerdctl.log

# Not in CI: each takes a build of its own. ONLY='spare|budget' takes those whose names match.
test-mutations: MUTATIONS = $(if $(filter-out images,$(ONLY)),-only '$(ONLY)')
test-mutations: root ## take each measure out of the code, and see its test turn red; half an hour (root)
	@$(DEPS) gcc
	@go run ./test/mutation $(MUTATIONS)

test-mutations-vm: MUTATIONS = $(if $(filter-out images,$(ONLY)),-only '$(ONLY)')
test-mutations-vm: root build tools hostile clients deps-qemu ## the same for what only a real VM shows; each builds the kit again; twenty minutes (root)
	@go run ./test/mutation $(MUTATIONS) -vm $(OUTPUT)

# Tests that take longer the more they try (harness.Many) try few of it in every run.
test-long: export MSB_LONG = 1
test-long: export MSB_SOAK ?= 30m
test-long: export MSB_TIMEOUT = 12h
test-long: ## the same at length: every hostile guest, a soak of MSB_SOAK (30m), many of what is few elsewhere; hours (root)
	@$(MAKE) test ALSO='test-buildkit test-arm64'

test-hostile: root build tools hostile ## every hostile guest in a VM of its own, and what it cost the host (root)
	@MSB_LONG=1 MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout $(MSB_TIMEOUT) -run '^TestHostileAgent$$' ./test/e2e

# containerd's own tests: of its client, and of its CRI plugin. Besides them, what those
# of them need that are about runc.
suites: $(SUITEIMAGES)/index.json
	@$(DEPS) mkfs.xfs lsof iptables
	@$(STEP) "building containerd's own tests" bash -c 'cd hack/tools/containerd-tests && \
		go test -c -o $(TOOLS)/client.test github.com/containerd/containerd/v2/integration/client && \
		go test -c -o $(TOOLS)/integration.test github.com/containerd/containerd/v2/integration && \
		go build -o $(TOOLS)/ github.com/containerd/containerd/v2/integration/failpoint/cmd/runc-fp && \
		go build -o $(OUTPUT)/cni/ github.com/containerd/containerd/v2/integration/failpoint/cmd/cni-bridge-fp'

# Pods under another containerd.
define PODS_UNDER
	@echo "==> pods under containerd $(1)"
	@export MSB_CONTAINERD=$(1) MSB_OUTPUT=$(OUTPUT); $(call TESTS,pod,-test.run '^(TestPod|TestVolumesFM65|TestPodKilled)$$')
endef
test-1.7: root build tools tests clients containerd-1.7 ## pods under containerd 1.7 (root)
	$(call PODS_UNDER,1.7)
test-2.%: root build tools tests clients $(TOOLS)/2.%/containerd
	$(call PODS_UNDER,2.$*)

# containerd before 2.0 starts a shim in another form: see shim/manager/legacy.go.
containerd-1.7: $(TOOLS)/1.7/containerd
containerd-2.%: $(TOOLS)/2.%/containerd
	@:

# What only the tests of nerdctl take.
clients:
	@$(DEPS) iptables
	@$(STEP) "building CNI plugins" bash -c 'cd hack/tools/cni && GOBIN=$(OUTPUT)/cni go install tool'
	@if [ ! -e $(NERDCTL) ]; then $(STEP) "building nerdctl" hack/nerdctl $(NERDCTL); fi

# What docs/guest.md's lines run in containers, from the host's directories.
guests:
	@$(DEPS) iptables nft wg ip mke2fs erofs systemd
	@$(STEP) "building crictl (a minute when new)" go build -C hack/tools/critest -o $(TOOLS)/ sigs.k8s.io/cri-tools/cmd/crictl

# All pods, and of the containers what the shim does at the same time, with a shim that has
# the race detector; what it finds is in files, because containerd throws a shim's standard
# error away. Memory is measured without it.
RACE := $(OUTPUT)/race
RACED := ^(TestLifecycle|TestStdio|TestVMMKilled|TestClientKilled)$$
test-race: root build tools tests hostile clients ## pods, end to end, with a shim that tells data races (root)
	@$(DEPS) gcc
	@rm -rf $(RACE) $(RESULTS)/race && mkdir -p $(RACE)/bin $(RESULTS)/race
	@for part in lib tools images cni; do ln -s ../$$part $(RACE)/$$part; done
	@$(STEP) "building the shim with the race detector" env CGO_ENABLED=1 go build -race $(NO_GRPC) -o $(RACE)/bin/ ./cmd/containerd-shim-msb-v2
	@echo "==> pods, with the race detector in the shim"
	@status=0; export GORACE="log_path=$(RESULTS)/race/shim atexit_sleep_ms=0"; \
	export MSB_OUTPUT=$(RACE); \
	$(call TESTS,pod,-test.skip '^TestOverhead$$') | tee -i $(RESULTS)/pods.log || status=1; \
	$(call TESTS,e2e,-test.run '$(RACED)') || status=1; \
	export MSB_OUTPUT=$(OUTPUT); \
	$(call TESTS,pod,-test.run '^TestOverhead$$') || status=1; \
	if cat $(RESULTS)/race/shim* 2>/dev/null; then echo "==> the shim has data races: see above" >&2; status=1; fi; exit $$status

test-docker: root build tools docker ## Docker Engine on a containerd: its command and compose, beside runc (root)
	@echo "==> Docker Engine"
	@mkdir -p $(RESULTS)
	@MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout $(MSB_TIMEOUT) ./test/docker | tee -i $(RESULTS)/docker.log

docker-table: root build tools docker ## write the table of Docker's options, runc's results beside ours, into docs/docker-table.md (root)
	@MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout $(MSB_TIMEOUT) -run '^TestTable$$' ./test/docker -update

# Docker Engine, for the tests.
docker:
	@$(DEPS) iptables
	@hack/docker $(DOCKER)

test-buildkit: root build tools buildkit ## an image that BuildKit builds in microVMs, and the same with runc (root)
	@echo "==> BuildKit"
	@MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout $(MSB_TIMEOUT) ./test/buildkit

# BuildKit, for the tests.
buildkit:
	@$(STEP) "building BuildKit (minutes when new)" bash -c 'cd hack/tools/buildkit && GOBIN=$(BUILDKIT) go install -ldflags "-s -w" tool'

# A kit for arm64, and a root file system with one program, built across.
ARM64 := $(OUTPUT)/arm64
test-arm64: root build tools ## a container of arm64 in an emulated machine, on any host (root)
	@$(DEPS) aarch64-linux-gnu-gcc qemu-arm
	@mkdir -p $(ARM64)/kit $(ARM64)/root/proc $(ARM64)/root/dev $(ARM64)/root/sys
	@hack/kept kernel $(ARM64)/vmlinux hack/build-kernel arm64
	@hack/kept crun $(ARM64)/crun hack/build-crun arm64
	@$(STEP) "building the guest's programs for arm64" bash -c 'GOARCH=arm64 go build $(NO_GRPC) -ldflags "-s -w" -o $(ARM64)/msb-agent ./cmd/msb-agent && \
		GOARCH=arm64 go build -ldflags "-s -w" -o $(ARM64)/root/hello ./test/arm64/hello'
	@hack/guest-image $(ARM64)/msb-agent $(ARM64)/crun $(ARM64)/guest.erofs
	@cp -a $(KIT)/. $(ARM64)/kit/ && cp $(ARM64)/vmlinux $(ARM64)/guest.erofs $(ARM64)/kit/
	@echo "==> a container of arm64"
	@MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout $(MSB_TIMEOUT) ./test/arm64

test-kubernetes: root image tools kubernetes clients ## a real Kubernetes of one node: its pods, and deploy/ on it (root)
	@$(STEP) "building the tests of Kubernetes" go test -c -o $(OUTPUT)/test/ ./test/kubernetes
	@mkdir -p $(RESULTS)
	@cd test/kubernetes && $(CURDIR)/hack/kubernetes $(OUTPUT)/test/kubernetes.test -test.v -test.timeout 40m | tee -i $(RESULTS)/kubernetes.log

kubernetes: $(KUBERNETES)/kubelet
	@$(DEPS) openssl curl ip

# A check is in one lane, unless its result can differ between the VMMs. These are about the
# shim before and beside the VM, about the agent and what it runs, or about containerd:
# they are under QEMU alone. The table of the contract says host or guest for their lines.
NOT_THE_VMM := TestClientKilled|TestMsbctl|TestClientSandbox|TestContainerdRestart|TestFM61FM62Killed/VMM_and_shim|TestFM63FM64StartedAgain|TestFM68LeftoversOfACrash|TestGuestAttacks|^TestPatience$$/the_guest|^TestGuest(Table)?$$|TestHooks|^TestImages$$/written_to_a_directory|^TestImages$$/written_to_a_file/(read-only|two|full|killed)|TestBlockDevicesRefused|TestBlockVolume|TestImages(Fuzzed|Refused|Verity)|TestVolumeImage(s|FullDisk|sRefused)$$|TestHostNamespaces|TestHostilePod|TestHostsRoot|TestInterrupted|TestLinuxBesideRunc|TestLoggingProgram|TestManyPods|TestManyRuns|TestMountManager|TestMountOptions|TestNetworkRefused|TestNeverStarted|TestOOM|TestOutputIsComplete/to_a_file|TestPlaceholder|^TestPod$$/msb/a_container_goes|TestPodImages|TestPodKilled|TestPodRefused|TestPorts|TestProcessBesideRunc|TestResolvers|TestResourceLimits|TestSharedPID|TestSpareFill|TestSpareHandOver|^TestSpares$$/(of|killed|drained)|TestShieldKilled|TestShimKilled|TestTerminal|TestTraces|TestTransfer|TestUpgrade|TestUserNamespace|TestRootfs/(FM37|native|^read-only)|^TestRefused$$/(FM27|FM38|FM39|datagram|FM41|DM05|VM34|hidden|metadata|following|unknown|malformed|destination|configuration|memory_of|CPUs|device|a_pod|command)

test-krun: root build tools tests hostile clients deps-krun ## what depends on the VMM under libkrun; without KVM in an emulated host (root)
	@mkdir -p $(RESULTS)
	@hack/test-krun '$(NOT_THE_VMM)' $(MSB_TIMEOUT) $(if $(MSB_LONG),40000,14400) | tee -i $(RESULTS)/krun.log

# Where KVM can run a guest, test-e2e has it already.
test-qemu-kvm: root build tools tests clients ## the main tests with QEMU on KVM and vhost-net, in an emulated host (root)
	@mkdir -p $(RESULTS)
	@if $(PROBE) kvm >/dev/null; then echo "==> QEMU on KVM: make test-e2e tests it on this machine"; exit; fi; \
	echo "==> end-to-end tests with QEMU on KVM, in an emulated host" && \
	hack/kvmhost -t $(if $(MSB_LONG),40000,14400) -p $(OUTPUT)/test/e2e.test env MSB_LONG="$${MSB_LONG:-}" MSB_DRIVER=qemu \
		sh -c 'probe kvm && exec /put/e2e.test "$$@"' sh -test.v -test.timeout $(MSB_TIMEOUT) \
		-test.run '^(TestConfined|TestLifecycle|TestMounts|TestNetwork|TestProcessors)$$' -test.skip '^TestNetwork$$/(a_smaller_MTU|many)' | tee -i $(RESULTS)/qemu-kvm.log

# What is tried, and how: the runtime handler (msb or runc), the ways in which containerd
# runs sandboxes, and a regular expression for the names of specs.
HANDLER    ?= msb
SANDBOXERS ?= podsandbox shim
FOCUS      ?=
UPDATE     ?=

conformance: conformance-critest conformance-client conformance-integration ## others' tests, all of them: of Kubernetes and of containerd (root)

conformance-critest: root build tools clients critest ## critest; UPDATE=1 writes what is expected (root)
	@mkdir -p $(RESULTS)
	@status=0; for sandboxer in $(SANDBOXERS); do \
		echo "==> critest, sandboxer $$sandboxer"; \
		MSB_OUTPUT=$(OUTPUT) MSB_RESULTS=$(RESULTS) go test -count=1 -v -timeout 150m ./test/conformance -handler $(HANDLER) \
			-sandboxer $$sandboxer -focus '$(FOCUS)' $(if $(UPDATE),-update) | tee -i $(RESULTS)/critest-$(HANDLER)-$$sandboxer.log || status=1; \
	done; exit $$status

SUITE = MSB_OUTPUT=$(OUTPUT) go test -count=1 -v -timeout 90m ./test/conformance/containerd -handler $(HANDLER) $(if $(UPDATE),-update) $(if $(SHORT),-short)

conformance-client: root build tools suites ## containerd's tests of its client; UPDATE=1 writes what is expected (root)
	@echo "==> containerd's tests of its client"
	@$(SUITE) -run TestClient

conformance-integration: root build tools clients suites ## containerd's tests of its CRI plugin; UPDATE=1 writes what is expected (root)
	@status=0; for sandboxer in $(SANDBOXERS); do \
		echo "==> containerd's tests of its CRI plugin, sandboxer $$sandboxer"; \
		$(SUITE) -run TestIntegration -sandboxer $$sandboxer || status=1; \
	done; exit $$status

test-conformance: ## those of them that say the most, each in one of the ways (root)
	@status=0; \
	$(MAKE) conformance-critest SANDBOXERS=podsandbox FOCUS='$(CRITEST_SHORT)' || status=1; \
	$(MAKE) conformance-client conformance-integration SANDBOXERS=shim SHORT=1 || status=1; exit $$status

# One or two specs of each kind that no test of ours is about.
CRITEST_SHORT := Multiple Containers|Networking|Streaming|Mount|OOM|execSync|stopping|reopening|Privileged|Paths

critest:
	@$(DEPS) iptables dpkg-deb
	@$(STEP) "building critest and crictl (a minute when new)" bash -c 'cd hack/tools/critest && \
		go test -c -o $(CRITEST) sigs.k8s.io/cri-tools/cmd/critest && \
		go build -o $(TOOLS)/ sigs.k8s.io/cri-tools/cmd/crictl'
	@$(MAKE) $(CRIMAGES)/index.json

bench: root build tools ## measure, against runc on this machine, and print a table (root)
	@MSB_OUTPUT=$(OUTPUT) go run ./test/bench

bench-boot: root build tools ## count the guest's instructions of a start, with msb's kernel and libkrunfw's (root)
	@MSB_OUTPUT=$(OUTPUT) go run ./test/bench -only instructions

bench-trace: root build tools ## draw the trace of one start, through containerd and the shim; PLOT=docs/traces.svg (root)
	@MSB_OUTPUT=$(OUTPUT) go run ./test/bench -only trace -plot '$(PLOT)'

# Which of them: images is all, jobs what programs do to files, layers starts of images of many
# layers, eleventh what one more container of a pod takes. PLOT=FILE draws jobs into an SVG.
ONLY ?= images
PLOT ?=

bench-files: root build tools ## measure root file systems: erofs and overlayfs, beside the guest's tmpfs and runc; ONLY=jobs|layers|eleventh, PLOT=docs/images.svg (root)
	@MSB_OUTPUT=$(OUTPUT) go run ./test/bench -only $(ONLY) -plot '$(PLOT)'

bench-files-krun: root build tools clients deps-krun ## the same under libkrun, with fewer files, in an emulated host (root)
	@mkdir -p $(RESULTS)/bench
	@$(STEP) "building the benchmark" go build -o $(OUTPUT)/test/bench ./test/bench
	@hack/kvmhost -t 14400 -f $(RESULTS)/bench -p $(OUTPUT)/test/bench env MSB_DRIVER=krun TMPDIR=/var \
		/put/bench -only $(ONLY) -files 500 $(if $(PLOT),-plot /results/images.svg)
	@$(if $(PLOT),cp $(RESULTS)/bench/images.svg '$(PLOT)')

bench-krun: root build tools clients deps-krun ## measure under libkrun, against microsandbox, in an emulated host (root)
	@hack/microsandbox $(OUTPUT)/cache/microsandbox
	@$(STEP) "building the benchmark" go build -o $(OUTPUT)/test/bench ./test/bench
	@hack/kvmhost -t 7200 -p $(OUTPUT)/test/bench -p $(OUTPUT)/cache/microsandbox env MSB_DRIVER=krun TMPDIR=/var /put/bench /put/microsandbox

# Raw system calls are in one package (docs/decisions/0126-raw-system-calls-in-one-place.md). What the
# tests run in containers tries them on purpose.
MAY_CALL := containerd-shim-msb/(test|internal/rawcall)(/|$$)
RAW_CALL := {"p": "^(unix|syscall)\\.(Raw|AllThreads)?Syscall", "pkg": "^(golang\\.org/x/sys/unix|syscall)$$", \
	"msg": "a raw system call: take a function of golang.org/x/sys/unix, or add one to internal/rawcall"}

lint: ## go vet, staticcheck, errorlint, unparam, forbidigo, gofumpt, shellcheck
	@$(DEPS) shellcheck
	@$(STEP) "building the linters" bash -c 'cd hack/tools/lint && GOBIN=$(TOOLS) go install tool'
	@status=0; \
	for dir in . hack; do \
		(cd $$dir && go vet ./...) || status=1; \
		(cd $$dir && $(TOOLS)/staticcheck ./...) || status=1; \
		(cd $$dir && $(TOOLS)/go-errorlint ./...) || status=1; \
		(cd $$dir && $(TOOLS)/unparam ./...) || status=1; \
		(cd $$dir && $(TOOLS)/forbidigo -set_exit_status -analyze_types -tests=false '$(RAW_CALL)' -- \
			$$(go list ./... | grep -vE '$(MAY_CALL)')) || status=1; \
	done; \
	grep -d skip -lE '^#!.*(bash|sh)$$' .ci/run hack/* hack/kernel/* hack/packages/* | xargs shellcheck --severity=warning || status=1; \
	unformatted=$$($(TOOLS)/gofumpt -l .) || status=1; \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofumpt -w on:"; echo "$$unformatted"; status=1; fi; \
	if [ $$status != 0 ]; then echo "==> lint: see above" >&2; exit 1; fi; \
	echo "==> lint: nothing to complain about"

proto: ## generate the protocols' Go code from guest/api, shim/journal/api, shim/shell/api and shim/spec/cri
	@$(DEPS) protoc
	@$(STEP) "building protoc's plugins" bash -c 'cd hack/tools/proto && GOBIN=$(TOOLS) go install tool'
	@PATH=$(TOOLS):$$PATH protoc -I . -I /usr/include \
		--go_out=. --go_opt=paths=source_relative \
		--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative guest/api/guest.proto \
		shim/journal/api/journal.proto shim/shell/api/shell.proto shim/spec/cri/cri.proto

# What is installed, once: install, uninstall, the image and the packages take these lists.
PROGRAMS := $(SHIM) $(CTL)
KIT_PROGRAMS := $(VMM) $(SHIELD) $(PLACEHOLDER)
KIT_FILES := $(addprefix $(KIT)/,vmlinux vmlinux-tsi guest.erofs VERSIONS)
DOC := doc/containerd-shim-msb
SHARED = man/man8/msbctl.8 man/man8/containerd-shim-msb-v2.8 \
	bash-completion/completions/msbctl $(ZSH_FUNCTIONS)/_msbctl fish/vendor_completions.d/msbctl.fish \
	$(addprefix $(DOC)/,LICENSE NOTICE CHANGELOG.md examples/config.toml examples/containerd.toml examples/containerd-1.7.toml)
UNITS := $(addprefix lib/systemd/system/,msb-spares.service msb-spares.timer)

install: build share install-kit ## install the shim, msbctl, the kit, manual, completions and units below PREFIX (default /usr/local)
	@for file in $(SHARED); do install -D -m 0644 $(SHARE)/$$file $(DESTDIR)$(PREFIX)/share/$$file; done
	@for file in $(UNITS); do install -D -m 0644 deploy/systemd/$${file##*/} $(DESTDIR)$(PREFIX)/$$file; done
	@echo "==> installed containerd-shim-msb-v2 and msbctl in $(DESTDIR)$(PREFIX)/bin, and $(DESTDIR)$(PREFIX)/lib/msb"

# What a container needs.
install-kit: build
	@install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/msb
	@install -m 0755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/
	@install -m 0755 $(KIT_PROGRAMS) $(DESTDIR)$(PREFIX)/lib/msb/
	@install -m 0644 $(KIT_FILES) $(DESTDIR)$(PREFIX)/lib/msb/
	@if [ -e $(KRUN) ]; then install -m 0644 $(KRUN) $(DESTDIR)$(PREFIX)/lib/msb/; fi
	@if [ -e $(VIRTIOFSD) ]; then install -m 0755 $(VIRTIOFSD) $(DESTDIR)$(PREFIX)/lib/msb/; fi

# The timer of spares is turned off as a package's is, if it is the one that install put there.
SPARES_TIMER := $(PREFIX)/lib/systemd/system/msb-spares.timer
TIMER_LINK := /etc/systemd/system/timers.target.wants/msb-spares.timer

uninstall: ## remove what install put there
	@if [ -z "$(DESTDIR)" ] && [ -e $(SPARES_TIMER) ] && { [ ! -L $(TIMER_LINK) ] || [ $(TIMER_LINK) -ef $(SPARES_TIMER) ]; }; then \
		hack/packages/before-remove remove; fi
	@rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(notdir $(PROGRAMS)))
	@rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/msb/,$(notdir $(KIT_PROGRAMS) $(KIT_FILES) $(KRUN) $(VIRTIOFSD)) libkrunfw.so.5)
	@rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,$(SHARED)) $(addprefix $(DESTDIR)$(PREFIX)/,$(UNITS))
	@for dir in lib/msb share/$(DOC)/examples share/$(DOC); do \
		if [ -d $(DESTDIR)$(PREFIX)/$$dir ]; then rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/$$dir; fi; done
	@if [ -z "$(DESTDIR)" ]; then hack/packages/after-change; fi
	@echo "==> removed the shim and its kit from $(DESTDIR)$(PREFIX)"

# Manual pages, completions, and examples, which name the prefix.
share: ctl
	@$(STEP) "making the manual, completions and examples" hack/share $(CTL) $(PREFIX) $(SHARE) $(ZSH_FUNCTIONS) $(DOC)

packer:
	@$(STEP) "building the packer" bash -c 'cd hack/tools/nfpm && GOBIN=$(TOOLS) go install -ldflags "-s -w" tool'

packages: build deps-krun deps-qemu packer ## build packages for Debian and RPM, an archive, and what is in them, into _output/packages
	@$(if $(filter msb,$(KERNEL)),,$(error a package has msb's kernel: leave KERNEL out))
	@$(DEPS) gcc
	@hack/packages/build $(OUTPUT) $(PACKAGES)

test-packages: root packages $(if $(MSB_LONG),tools) ## install, upgrade and remove the packages in empty roots, and compare the image (root)
	@$(DEPS) rpm dpkg-deb systemd busybox
	@echo "==> packages"
	@status=0; for part in test test-timer test-image $(if $(MSB_LONG),test-systemd); do hack/packages/$$part $(OUTPUT) $(PACKAGES) || status=1; done; exit $$status

test-systemd: root packages tools ## the packages under VMs that run, on a host whose init is systemd; test-long has it, too (root)
	@$(DEPS) dpkg-deb systemd qemu pgrep
	@echo "==> packages under systemd"
	@hack/packages/test-systemd $(OUTPUT) $(PACKAGES)

image: build deps-krun deps-qemu ## build the image that installs msb on a node of Kubernetes, as IMAGE_NAME (default localhost/msb-install:latest)
	@rm -rf $(INSTALL)
	@$(MAKE) install-kit DESTDIR=$(INSTALL) PREFIX=/kit
	@install -m 0644 deploy/config.toml $(INSTALL)/kit/
	@$(STEP) "building the installer" go build -ldflags '-s -w' -o $(INSTALL)/msb-install ./cmd/msb-install
	@chmod 0755 $(INSTALL)/msb-install
	@$(STEP) "building the installer's image" go run -C hack ./image tree $(INSTALL) $(IMAGE_NAME) /msb-install $(OUTPUT)/images/msb-install.tar
	@echo "==> $(OUTPUT)/images/msb-install.tar is $(IMAGE_NAME)"

clean: ## remove what was built, but not what was downloaded
	@rm -rf $(addprefix $(OUTPUT)/,bin build lib share guest tools cni images install packages kubernetes log results)

distclean: ## remove what was built and what was downloaded, but for kernels, which other clones use, too
	@rm -rf $(OUTPUT)

root:
	@hack/need-root make $(MAKECMDGOALS)

# The parts. Go knows itself what of our own programs has changed.
PROGRAM := hack/program $(OUTPUT)/build
VERSIONED := -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=$(VERSION)'

# no_grpc is containerd's, for shims: its packages leave out what is for gRPC, which neither shim nor agent speaks.
NO_GRPC := -tags no_grpc

shim:
	@$(STEP) "building the shim" $(PROGRAM) $(SHIM) ./cmd/containerd-shim-msb-v2 $(NO_GRPC) $(VERSIONED)

ctl:
	@$(STEP) "building msbctl" $(PROGRAM) $(CTL) ./cmd/msbctl $(VERSIONED)

# Without gRPC it has three fifths of the size, and each VM reads and starts all of it.
agent:
	@$(STEP) "building the agent" $(PROGRAM) $(AGENT) ./cmd/msb-agent $(NO_GRPC) -ldflags '-s -w'

vmm:
	@$(STEP) "building the VMM of the krun driver" $(PROGRAM) $(VMM) ./cmd/msb-krun -ldflags '-s -w'

placeholder: $(PLACEHOLDER)

$(PLACEHOLDER): cmd/msb-placeholder/placeholder.c hack/build-placeholder
	@$(DEPS) gcc
	@$(STEP) "building what stands for containers on the host" hack/build-placeholder $@

shield:
	@$(STEP) "building the shield of mounted files" $(PROGRAM) $(SHIELD) ./cmd/msb-shield -ldflags '-s -w'

kit: agent vmm shield placeholder
	@$(DEPS) qemu virtiofsd erofs
	@$(MAKE) $(KIT)/vmlinux $(KIT)/vmlinux-tsi $(KIT)/guest.erofs $(KIT)/VERSIONS

deps-krun: $(KRUN) ## build libkrun, with msb's changes, into _output (Rust)

deps-qemu: $(VIRTIOFSD) ## build virtiofsd, with msb's changes, into _output (Rust)

$(KRUN): hack/kept hack/build-libkrun hack/patched-crate hack/fileserver/acl.rs $(wildcard hack/libkrun/*)
	@hack/kept libkrun $@ hack/build-libkrun

$(VIRTIOFSD): hack/kept hack/build-virtiofsd hack/patched-crate hack/fileserver/acl.rs $(wildcard hack/virtiofsd/*)
	@hack/kept virtiofsd $@ hack/build-virtiofsd

probe:
	@$(STEP) "building what the tests run in containers" $(PROGRAM) $(PROBE) ./test/probe -ldflags '-s -w'

# The guest's disk with an agent that somebody else owns, beside the product's own.
hostile:
	@$(STEP) "building the hostile agent" $(PROGRAM) $(OUTPUT)/guest/hostile-agent ./test/hostile/agent $(NO_GRPC) -ldflags '-s -w'
	@$(MAKE) $(HOSTILE)

$(OUTPUT)/guest/hostile-sums: $(OUTPUT)/guest/hostile-agent $(CRUN)
	@cd $(@D) && sha256sum hostile-agent crun >$@.$$$$ && $(REPLACE)

$(HOSTILE): $(OUTPUT)/guest/hostile-sums hack/guest-image
	@mkdir -p $(@D)
	@$(STEP) "making the disk of the hostile guest" hack/guest-image $(OUTPUT)/guest/hostile-agent $(CRUN) $@

tools: probe
	@$(DEPS) busybox pgrep erofs mke2fs
	@$(MAKE) $(TOOLS)/containerd $(TOOLS)/runc $(IMAGE) $(LAYERS)

$(KRUNFW) $(ORIGIN) &: hack/libkrunfw
	@hack/libkrunfw $(KRUNFW) $(ORIGIN)

$(KIT)/vmlinux-tsi: $(KRUNFW) hack/kernel/main.go
	@$(STEP) "wrapping libkrunfw's kernel" go run -C hack ./kernel $(KRUNFW) $@

kernel: $(LINUX) ## build the guest's kernel from source (about twelve minutes when new)

$(LINUX): hack/kept hack/build-kernel hack/kernel/check hack/kernel/config hack/kernel/config.x86_64
	@hack/kept kernel $@ hack/build-kernel x86_64

KERNEL_FILE := $(if $(filter libkrunfw,$(KERNEL)),$(KIT)/vmlinux-tsi,$(if $(filter msb,$(KERNEL)),$(LINUX),$(error KERNEL is $(KERNEL): it is msb or libkrunfw)))
$(KIT)/vmlinux: $(KERNEL_FILE) always
	@cmp -s $< $@ || { cp $< $(OUTPUT)/guest/kit.$$$$ && mv $(OUTPUT)/guest/kit.$$$$ $@; }

$(CRUN): hack/kept hack/build-crun hack/debian hack/crun/crun.patch
	@hack/kept crun $@ hack/build-crun x86_64

$(OUTPUT)/guest/sums: $(AGENT) $(CRUN)
	@cd $(@D) && sha256sum msb-agent crun >$@.$$$$ && $(REPLACE)

$(KIT)/guest.erofs: $(OUTPUT)/guest/sums hack/guest-image
	@$(STEP) "making the guest's disk" hack/guest-image $(AGENT) $(CRUN) $@

$(KIT)/VERSIONS: $(CRUN) $(KIT)/vmlinux $(ORIGIN) always
	@{ echo "msb $(VERSION)"; \
		grep -aom1 'Linux version [^ ]*' $(KIT)/vmlinux; \
		$(if $(filter msb,$(KERNEL)),cat $(LINUX).origin;) cat $(ORIGIN) $(CRUN).origin; } >$@.$$$$ && $(REPLACE)

$(TOOLS)/containerd: hack/tools/containerd/go.mod
	@$(STEP) "building containerd and ctr (one or two minutes when new)" \
		go build -C hack/tools/containerd -tags 'no_btrfs no_devmapper no_zfs' -o $(TOOLS)/ \
		github.com/containerd/containerd/v2/cmd/containerd \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
		github.com/containerd/containerd/v2/cmd/ctr
	@touch $@

# The containerd of many distributions and of Kubernetes before 2.0; its own shim is for comparison.
$(TOOLS)/1.7/containerd: hack/tools/containerd-1.7/go.mod
	@$(STEP) "building containerd 1.7 (one or two minutes when new)" \
		go build -C hack/tools/containerd-1.7 -tags 'no_btrfs no_devmapper no_zfs no_aufs' -o $(TOOLS)/1.7/ \
		github.com/containerd/containerd/cmd/containerd \
		github.com/containerd/containerd/cmd/containerd-shim-runc-v2 \
		github.com/containerd/containerd/cmd/ctr
	@touch $@

$(TOOLS)/2.%/containerd: hack/containerd-release
	@$(STEP) "building containerd 2.$* (one or two minutes when new)" hack/containerd-release 2.$* $(@D)
	@touch $@

# The version is what kubelet and the API server say of themselves.
$(KUBERNETES)/kubelet: hack/tools/kubernetes/go.mod
	@$(STEP) "building Kubernetes (seven minutes when new)" bash -c 'cd hack/tools/kubernetes && \
		version=$$(go list -m -f {{.Version}} k8s.io/kubernetes) package=k8s.io/component-base/version && \
		go build -ldflags "-s -w -X $$package.gitVersion=$$version -X $$package.gitMajor=1 -X $$package.gitMinor=$$(cut -d. -f2 <<<$$version)" \
			-o $(KUBERNETES)/ k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl,kubelet} && \
		go build -ldflags "-s -w" -o $(KUBERNETES)/etcd go.etcd.io/etcd/server/v3'
	@touch $@

# What ours is compared with.
$(TOOLS)/runc: hack/tools/runc/go.mod
	@$(STEP) "building runc (static, about a minute when new)" env CGO_ENABLED=1 \
		go build -C hack/tools/runc -tags 'seccomp netgo osusergo urfave_cli_no_docs' \
		-ldflags '-s -w -extldflags -static' -o $@ github.com/opencontainers/runc
	@touch $@

$(IMAGE): $(wildcard hack/image/*.go)
	@mkdir -p $(@D)
	@$(STEP) "building the busybox image" go run -C hack ./image busybox "$$(command -v busybox)" $@

$(LAYERS): $(wildcard hack/image/*.go)
	@mkdir -p $(@D)
	@$(STEP) "building the image of twelve layers" go run -C hack ./image layers "$$(command -v busybox)" $@

$(CRIMAGES)/index.json: $(wildcard hack/image/*.go) hack/busybox-conformance $(PROBE)
	@busybox=$$(hack/busybox-conformance $(OUTPUT)/cache/busybox) && \
		$(STEP) "building the images for critest" go run -C hack ./image critest "$$busybox" $(PROBE) $(CRIMAGES)
	@touch $@

$(SUITEIMAGES)/index.json: $(wildcard hack/image/*.go) $(IMAGE) $(PROBE)
	@$(STEP) "building the images for containerd's own tests" go run -C hack ./image containerd "$$(command -v busybox)" $(PROBE) $(SUITEIMAGES)
	@touch $@
