// Package libkrun is a thin binding of libkrun's C API (libkrun.h), without cgo.
//
// Strings are copied for the duration of a call; libkrun keeps copies of its own
// of all that is passed here, so nothing has to be kept alive for it.
//
// It is tested with libkrun 1.19.7, out of which msb's build (hack/build-libkrun) makes its library.
// 2.0 drops krun_disable_implicit_vsock, whose effect is its default, and krun_set_console_output,
// for krun_add_virtio_console_default (libkrun's pull request 688).
package libkrun

import (
	"errors"
	"fmt"
	"os"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"
)

// Oldest is the oldest version that has everything this binding uses.
const Oldest = "1.18"

// Features of a build of the library (KRUN_FEATURE_…).
const (
	featureNet = 0
	featureBlk = 1
)

// A Library is libkrun's API, as far as it is used. Functions return a negative
// errno or, where they make something, its number. A test may fill in its own.
type Library struct {
	InitLog              func(target int32, level, style, options uint32) int32
	HasFeature           func(feature uint64) int32
	GetMaxVCPUs          func() int32
	CreateContext        func() int32
	SetVMConfig          func(ctx uint32, cpus uint8, memoryMiB uint32) int32
	SetKernel            func(ctx uint32, path string, format uint32, initramfs uintptr, commandLine string) int32
	AddDisk              func(ctx uint32, id, path string, format uint32, readOnly bool) int32
	AddVirtioFS          func(ctx uint32, tag, path string, sharedMemory uint64, readOnly bool) int32
	DisableImplicitVsock func(ctx uint32) int32
	AddVsock             func(ctx, tsiFeatures uint32) int32
	AddVsockPort         func(ctx, port uint32, path string, listen bool) int32
	AddNetTap            func(ctx uint32, tap string, hardwareAddress *byte, features, flags uint32) int32
	SetConsoleOutput     func(ctx uint32, path string) int32
	// StartEnter runs the machine. When the guest ends it ends the *process*; it
	// returns only when the machine could not be started.
	StartEnter func(ctx uint32) int32
}

// symbols are the names of the library's functions.
func (l *Library) symbols() map[string]any {
	return map[string]any{
		"krun_init_log":               &l.InitLog,
		"krun_has_feature":            &l.HasFeature,
		"krun_get_max_vcpus":          &l.GetMaxVCPUs,
		"krun_create_ctx":             &l.CreateContext,
		"krun_set_vm_config":          &l.SetVMConfig,
		"krun_set_kernel":             &l.SetKernel,
		"krun_add_disk2":              &l.AddDisk,
		"krun_add_virtiofs3":          &l.AddVirtioFS,
		"krun_disable_implicit_vsock": &l.DisableImplicitVsock,
		"krun_add_vsock":              &l.AddVsock,
		"krun_add_vsock_port2":        &l.AddVsockPort,
		"krun_add_net_tap":            &l.AddNetTap,
		"krun_set_console_output":     &l.SetConsoleOutput,
		"krun_start_enter":            &l.StartEnter,
	}
}

// marker is what msb's build of the library has beside libkrun's own functions
// (hack/libkrun/krun-devices.patch).
const marker = "krun_msb_file_server"

// Load loads the library at a path, and checks that it is msb's build, new enough, and
// has the features that are needed.
func Load(path string) (*Library, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("libkrun is not installed (%s: no such file): build it with \"make deps-krun\" and install it with \"make install\"", path)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("loading libkrun: %w", err)
	}
	library, err := bind(handle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return library, library.check(path)
}

func bind(handle uintptr) (*Library, error) {
	library := new(Library)
	for name, function := range library.symbols() {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("this libkrun has no %s: install libkrun %s or newer", name, Oldest)
		}
		purego.RegisterFunc(function, symbol)
	}
	if _, err := purego.Dlsym(handle, marker); err != nil {
		return nil, errors.New("this libkrun is not msb's, and its file server would show files with access control lists to users whom these refuse: build msb's with \"make deps-krun\", or leave krun.library out of the configuration")
	}
	return library, nil
}

func (l *Library) check(place string) error {
	for feature, name := range map[uint64]string{featureBlk: "blk", featureNet: "net"} {
		if l.HasFeature(feature) != 1 {
			return fmt.Errorf("%s was built without the feature %s: build one with it, by \"make deps-krun\"", place, name)
		}
	}
	return nil
}

// errno is the error of a call's result.
func errno(result int32) error {
	if result >= 0 {
		return nil
	}
	return unix.Errno(-result)
}
