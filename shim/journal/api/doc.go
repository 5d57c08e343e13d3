// Package api is what a shim and an operator's program say to each other about the shim's last
// lines: the messages and the service of journal.proto.
package api
