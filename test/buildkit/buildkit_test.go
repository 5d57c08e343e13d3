// Package buildkit builds images with BuildKit's own daemon, whose containerd worker runs
// each step in a microVM, and with runc: both make the same.
package buildkit

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var host *harness.Host

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(h *harness.Host) int {
		host = h
		return m.Run()
	}))
}

const dockerfile = `FROM ` + harness.Image + ` AS base
COPY given /given
RUN echo made >/made && chmod 4751 /made && ln -s /made /link && ln /made /hard && mkdir -p /d/e && chown -R 5:6 /d && rm /bin/zcat
RUN --mount=type=cache,target=/cache --mount=type=bind,source=given,target=/bound \
	--mount=type=secret,id=secret,target=/run/secret --mount=type=tmpfs,target=/memory \
	cat /bound /run/secret >/mounted && echo x >/cache/x && echo x >/memory/x && ! echo x 2>/dev/null >>/bound
USER 5:6
WORKDIR /d/e
RUN <<STEP
id >own
umask >>own
test ! -e /run/secret && echo gone >>own
STEP
FROM ` + harness.Image + `
COPY --from=base / /
RUN --network=none ip -o link | grep -c . >/links
`

const failing = `FROM ` + harness.Image + `
RUN exit 7
`

func TestBuild(t *testing.T) {
	host.NothingLeft(t)
	made := make(map[string][]string)
	for _, runtime := range []string{"io.containerd.runc.v2", harness.Runtime} {
		t.Run(runtime, func(t *testing.T) {
			b := startBuilder(t, runtime)
			if output, err := b.build(dockerfile); err != nil {
				t.Fatalf("%v\n%s\n%s", err, output, b.log())
			}
			made[runtime] = content(t, filepath.Join(b.dir, "image.tar"))
			if output, err := b.build(failing); err == nil || !strings.Contains(output, "exit code: 7") {
				t.Errorf("a step that fails: %v\n%s", err, output)
			}
		})
	}
	runc, msb := made["io.containerd.runc.v2"], made[harness.Runtime]
	if len(runc) < 10 {
		t.Fatalf("runc's image has only %q", runc)
	}
	for _, entry := range runc {
		if !slices.Contains(msb, entry) {
			t.Errorf("only with runc: %s", entry)
		}
	}
	for _, entry := range msb {
		if !slices.Contains(runc, entry) {
			t.Errorf("only with msb: %s", entry)
		}
	}
}

// A builder is a buildkitd. Its directory is in containerd's.
type builder struct{ dir string }

const settings = `root = %q
[grpc]
  address = [%q]
[worker.oci]
  enabled = false
[worker.containerd]
  enabled = true
  address = %q
  namespace = %q
  defaultCgroupParent = "/%[4]s"
  gc = false
  [worker.containerd.runtime]
    name = %q
`

// startBuilder starts one for the test, and waits until it serves.
func startBuilder(t *testing.T, runtime string) *builder {
	t.Helper()
	b := &builder{filepath.Join(host.Dir, runtime)}
	config := filepath.Join(b.dir, "buildkitd.toml")
	if err := errors.Join(
		os.MkdirAll(b.context(), 0o700),
		os.WriteFile(config, fmt.Appendf(nil, settings, filepath.Join(b.dir, "root"), b.address(), host.Address(), harness.Namespace, runtime), 0o600),
		os.WriteFile(filepath.Join(b.context(), "given"), []byte("given\n"), 0o640),
		os.WriteFile(filepath.Join(b.dir, "secret"), []byte("secret\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	process := exec.Command(program("buildkitd"), "--config", config)
	process.Env, process.Stdout, process.Stderr = append(os.Environ(), "TMPDIR="+b.dir), log, log
	ended, err := host.StartBeside(process)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Signal(syscall.SIGTERM)
		<-ended
		harness.RemoveGroup("/" + harness.Namespace + "/buildkit") // which it leaves
		if err := harness.Detach(b.dir); err != nil {
			t.Error(err)
		}
	})
	if !harness.Eventually(func() bool {
		select {
		case <-ended:
			t.Fatalf("buildkitd has ended:\n%s", b.log())
		default:
		}
		_, err := b.ctl("debug", "workers")
		return err == nil
	}) {
		t.Fatalf("buildkitd does not serve:\n%s", b.log())
	}
	return b
}

func program(name string) string { return filepath.Join(host.Output, "cache", "buildkit", name) }

func (b *builder) address() string { return "unix://" + filepath.Join(b.dir, "socket") }
func (b *builder) context() string { return filepath.Join(b.dir, "context") }

func (b *builder) log() string {
	log, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(log)
}

// ctl runs buildctl and returns all that it printed.
func (b *builder) ctl(arguments ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program("buildctl"), append([]string{"--addr", b.address()}, arguments...)...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir)
	all, err := cmd.CombinedOutput()
	return string(all), err
}

// build builds a Dockerfile into image.tar.
func (b *builder) build(dockerfile string) (output string, err error) {
	if err := os.WriteFile(filepath.Join(b.context(), "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		return "", err
	}
	return b.ctl("build", "--progress=plain", "--frontend=dockerfile.v0", "--opt", "image-resolve-mode=local",
		"--local", "context="+b.context(), "--local", "dockerfile="+b.context(),
		"--secret", "id=secret,src="+filepath.Join(b.dir, "secret"), "--output", "type=tar,dest="+filepath.Join(b.dir, "image.tar"))
}

// content is a line for each entry of an archive: what it is, whose, and what is in it. Times
// are when it was made.
func content(t *testing.T, archive string) (entries []string) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for reader := tar.NewReader(file); ; {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, reader); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, fmt.Sprintf("%s %c %o %d:%d -> %q %d bytes %x", entry.Name, entry.Typeflag, entry.Mode, entry.Uid, entry.Gid, entry.Linkname, entry.Size, hash.Sum(nil)[:6]))
	}
}
