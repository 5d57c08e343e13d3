// Package api is what a shim and an operator's program say to each other about a shell in the
// guest: the messages and the service of shell.proto.
package api
