//go:build !amd64

package qemu

// tscKHz is 0: there is no such counter to calibrate.
func tscKHz() int64 { return 0 }
