// Package containerd tells a node's containerd of msb: by a file beside its
// configuration, taken only if it changes nothing else there. What that file would
// do is asked of containerd itself before it is restarted, because versions differ:
// 1.7 would lose other settings by it, or not start again.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Containerd is the containerd of a node.
type Containerd struct {
	Config string // its configuration file
	Prefix string // where msb's kit is
	// Snapshotter is the runtime's own; empty is containerd's for all of them.
	Snapshotter string
	// MkfsHelp prints what mkfs.erofs says of itself. It is asked for the snapshotter erofs alone.
	MkfsHelp func(context.Context) ([]byte, error)
	// Dump prints the configuration in effect, that of other files included.
	Dump func(context.Context) ([]byte, error)
	// Restart makes it take a changed configuration.
	Restart func(context.Context) error
}

// Dump runs "config dump" of a containerd.
func Dump(program, config string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		return run(ctx, program, "--config", config, "config", "dump")
	}
}

// MkfsHelp runs "mkfs.erofs --help", which prints it on either stream.
func MkfsHelp(ctx context.Context) ([]byte, error) {
	return exec.CommandContext(ctx, "mkfs.erofs", "--help").CombinedOutput()
}

// Command is a Restart that runs a command, such as "systemctl restart containerd".
func Command(line string) func(context.Context) error {
	return func(ctx context.Context) error {
		words := strings.Fields(line)
		if len(words) == 0 {
			return errors.New("no command is given that restarts containerd")
		}
		_, err := run(ctx, words[0], words[1:]...)
		return err
	}
}

func run(ctx context.Context, program string, arguments ...string) ([]byte, error) {
	output, err := exec.CommandContext(ctx, program, arguments...).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		return nil, fmt.Errorf("%s %s: %s (%w)", program, strings.Join(arguments, " "), lines[len(lines)-1], err)
	}
	return output, err
}

// Add makes the runtime known, and restarts containerd unless it knew already.
// After an error all is as it was before.
func (c Containerd) Add(ctx context.Context) error {
	before, err := c.dump(ctx)
	if err != nil {
		return err
	}
	path, pathErr := c.dropIn()
	had, err := read(path)
	if err != nil {
		return err
	}
	if had == nil {
		switch shim, known := before.shim(); {
		case known && shim == c.shim():
			return nil // added by hand, and so containerd is restarted by hand
		case known:
			return fmt.Errorf("containerd has a runtime %s that is not of this kit, its shim is %q: take it out of %s", Runtime, shim, c.Config)
		}
	}
	if pathErr != nil {
		return pathErr
	}
	if err := c.checkSnapshotter(ctx, before); err != nil {
		return err
	}
	text := []byte(dropIn(before.version(), c.Prefix, c.Snapshotter))
	if string(had) == string(text) && !c.pending() {
		return nil
	}
	if err := c.markPending(); err != nil {
		return err
	}
	if err := replace(path, text); err != nil {
		return err
	}
	if err := c.check(ctx, before, path); err != nil {
		return errors.Join(err, replace(path, had), c.unmarkPending())
	}
	if err := c.restart(ctx); err != nil {
		return errors.Join(fmt.Errorf("containerd did not restart with %s, which is taken back: %w", path, err), replace(path, had), c.restart(ctx))
	}
	return nil
}

// checkSnapshotter tells whether the node has the runtime's own snapshotter, and what that
// needs for right content: containerd unpacks several layers of an image at a time, each above
// nothing, and only the erofs differ, which wants archives to be taken (--tar), then keeps
// what a layer removes of those below it.
func (c Containerd) checkSnapshotter(ctx context.Context, before config) error {
	if c.Snapshotter == "" {
		return nil
	}
	if !before.hasSnapshotter(c.Snapshotter) {
		return fmt.Errorf("containerd has no snapshotter %s: containerd 2.1 or newer has erofs; or leave the flag -snapshotter out", c.Snapshotter)
	}
	if c.Snapshotter != "erofs" {
		return nil
	}
	help, err := c.MkfsHelp(ctx)
	if err != nil {
		return fmt.Errorf("the snapshotter erofs needs mkfs.erofs on the node: install erofs-utils 1.7 or newer, or leave the flag -snapshotter out: %w", err)
	}
	if !strings.Contains(string(help), "--tar") {
		return errors.New("mkfs.erofs on the node takes no archives, and with it files that a layer of an image removes would come back: install erofs-utils 1.7 or newer, or leave the flag -snapshotter out")
	}
	return nil
}

// check asks containerd what it would make of the file at path.
func (c Containerd) check(ctx context.Context, before config, path string) error {
	after, err := c.dump(ctx)
	if err != nil {
		return fmt.Errorf("containerd would not start with %s: %w", path, err)
	}
	if shim, _ := after.shim(); shim != c.shim() {
		return fmt.Errorf("containerd does not take runtime %s from %s: a file that is read later has another", Runtime, path)
	}
	lost := before.lost(after)
	if len(lost) == 0 {
		return nil
	}
	const most = 3
	names := strings.Join(lost[:min(most, len(lost))], ", ")
	if len(lost) > most {
		names += fmt.Sprintf(" and %d more", len(lost)-most)
	}
	return fmt.Errorf("with %s containerd would lose %s, as 1.7 does: add these lines to the end of %s instead and restart containerd:\n\n%s",
		path, names, c.Config, strings.ReplaceAll(version2, Prefix+"/", c.Prefix+"/"))
}

// Remove takes the runtime away, and restarts containerd if it was known.
func (c Containerd) Remove(ctx context.Context) error {
	path, err := c.dropIn()
	if err != nil {
		return nil // then no file of ours is read
	}
	had, err := read(path)
	if err != nil || had == nil && !c.pending() {
		return err
	}
	if err := c.markPending(); err != nil {
		return err
	}
	if err := replace(path, nil); err != nil {
		return err
	}
	return c.restart(ctx)
}

func (c Containerd) shim() string {
	return filepath.Join(c.Prefix, "current", "bin", "containerd-shim-msb-v2")
}

func (c Containerd) dump(ctx context.Context) (config, error) {
	printed, err := c.Dump(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking containerd for its configuration: %w", err)
	}
	return parse(printed)
}

func (c Containerd) dropIn() (string, error) {
	content, err := os.ReadFile(c.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("containerd has no %s: make one with \"containerd config default\", or one with the line %s", c.Config, importsLine)
	}
	if err != nil {
		return "", err
	}
	return dropInPath(c.Config, content)
}

// A file says that containerd has yet to be restarted: a change and the restart
// after it may be cut apart.
func (c Containerd) pendingFile() string { return filepath.Join(c.Prefix, "restart-containerd") }

func (c Containerd) pending() bool {
	_, err := os.Stat(c.pendingFile())
	return err == nil
}

func (c Containerd) markPending() error { return replace(c.pendingFile(), []byte{}) }

func (c Containerd) unmarkPending() error { return replace(c.pendingFile(), nil) }

func (c Containerd) restart(ctx context.Context) error {
	if err := c.Restart(ctx); err != nil {
		return err
	}
	return c.unmarkPending()
}

// read is a file's content; nil means that there is none.
func read(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return content, err
}

// replace gives a file its content in one step; nil removes it. The directory of
// drop-ins is made with the first one.
func replace(path string, content []byte) error {
	if content == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Not *.toml: containerd must not find it half-written.
	unfinished := path + ".new"
	if err := os.WriteFile(unfinished, content, 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}
