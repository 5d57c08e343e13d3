package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// pause is what the sandbox of a pod runs: it holds the namespaces, reaps what is
// left to it as PID 1, and ends when it is told to.
func pause([]string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGINT, unix.SIGTERM)
	for received := range signals {
		if received != unix.SIGCHLD {
			break
		}
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid == 0 {
				break
			}
		}
	}
	return nil
}
