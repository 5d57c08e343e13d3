// Package version tells which msb this is.
package version

// Version is set by the linker.
var Version = "unknown"
