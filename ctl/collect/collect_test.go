package collect

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// unpack is what is in an archive: texts by the names of files.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, directory+"/")] = string(content)
	}
}

// A fake is a host, in a directory. Its secrets are in the files of its processes and bundles.
type fake struct {
	t       *testing.T
	dir     string
	secrets map[string]string // by where they are
}

func (f fake) write(path, content string) {
	f.t.Helper()
	path = filepath.Join(f.dir, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// secret is a new one.
func (f fake) secret(where string) string {
	random := make([]byte, 12)
	_, _ = rand.Read(random)
	f.secrets[where] = "S" + hex.EncodeToString(random)
	return f.secrets[where]
}

const bundle = "state/io.containerd.runtime.v2.task/default/web"

func (f fake) process(pid int, name, children string) {
	at := fmt.Sprintf("proc/%d/", pid)
	f.write(at+"stat", fmt.Sprintf("%d (%s) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 300 1", pid, name))
	f.write(at+"status", "Name:\t"+name+"\nState:\tS (sleeping)\nVmRSS:\t  4096 kB\nThreads:\t9\nX_unknown:\t"+f.secret("an unknown field of status of "+name)+"\n")
	f.write(at+"limits", "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 4096                 files     \n")
	f.write(at+"cgroup", "0::/default/web\n")
	f.write(at+"oom_score_adj", "-998\n")
	f.write(at+fmt.Sprintf("task/%d/children", pid), children)
	if err := os.Symlink("/usr/bin/"+name, filepath.Join(f.dir, at, "exe")); err != nil {
		f.t.Fatal(err)
	}
	f.write(at+"environ", "PATH=/bin\x00TOKEN="+f.secret("environment of "+name)+"\x00")
	f.write(at+"cmdline", name+"\x00--password="+f.secret("arguments of "+name)+"\x00")
}

func newFake(t *testing.T) fake {
	f := fake{t, t.TempDir(), make(map[string]string)}
	f.write("proc/stat", "btime 1700000000\n")
	f.process(41, "containerd-shim", "42 43 ")
	f.process(42, "qemu-system-x86", "")
	f.process(43, "virtiofsd", "")
	f.write("proc/41/mountinfo", fmt.Sprintf("74 64 254:0 /srv/%s/data %s/msb/pool/dm_2 ro,nodev shared:9 - ext4 /dev/%s rw\n",
		f.secret("name of a mounted directory"), filepath.Join(f.dir, bundle), f.secret("source of a mount"))+
		fmt.Sprintf("72 66 0:44 /fm_9 %s/msb/files/fm_3/%s rw,nodev shared:7 - fuse.msb msb rw\n", filepath.Join(f.dir, bundle), f.secret("name of a mounted file")))
	f.write("cgroup/default/web/memory.current", "4096\n")
	f.write("cgroup/default/web/notes", f.secret("a file of a control group"))
	record, err := json.Marshal(sandbox.Record{Pid: 42, Start: "4711", Shim: 41, Driver: "qemu", CPUs: 1, Memory: 1 << 29, CgroupsPath: "/default/web"})
	if err != nil {
		t.Fatal(err)
	}
	f.write(bundle+"/sandbox.json", string(record))
	f.write(bundle+"/config.json", fmt.Sprintf(`{"process":{"args":["sh","-c",%q],"env":["TOKEN=%s"]},"hostname":%q,"annotations":{"note":%q,"io.containerd.label":%q},"mounts":[{"source":%q}]}`,
		f.secret("argument"), f.secret("environment variable"), f.secret("name of the container's host"), f.secret("annotation"), f.secret("label"), f.secret("source of the configuration")))
	f.write(bundle+"/rootfs/etc/secret", f.secret("content of a mounted file"))
	f.write(bundle+"/task.json", fmt.Sprintf(`{"Pid":1,"Note":%q}`, f.secret("note of the shim")))
	f.write(bundle+"/runtime-options", f.secret("options of the runtime"))
	f.write(bundle+"/exec.json", fmt.Sprintf(`{"env":["TOKEN=%s"]}`, f.secret("environment of an exec")))
	f.write(bundle+"/bootstrap.json", fmt.Sprintf(`{"address":"unix:///no/such","more":%q}`, f.secret("containerd's note")))
	f.write("kit/VERSIONS", "msb 1.0\n")
	f.write("kit/vmlinux", "ELF "+f.secret("content of the kit"))
	f.write("config.toml", "[vm]\ncpus = 2\n# "+f.secret("comment in the configuration")+"\n")
	return f
}

func (f fake) source() Source {
	at := func(name string) string { return filepath.Join(f.dir, name) }
	return Source{
		Host:   survey.Host{State: at("state"), Proc: at("proc"), Patience: time.Minute},
		Spares: at("spares"), Cgroups: at("cgroup"), Config: at("config.toml"),
		Facts: check.Facts{Version: "1.0", Kit: check.Kit{Dir: at("kit")}},
	}
}

// What the host's files have is not in the archive, but for what was to be read.
func TestSecrets(t *testing.T) {
	f := newFake(t)
	now := time.Now()
	parts, failed := f.source().Parts(t.Context(), now)
	if len(failed) > 0 {
		t.Errorf("failed: %q", failed)
	}
	path := filepath.Join(f.dir, "report.tar.gz")
	if err := Write(t.Context(), path, parts, now); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, path)
	for name, content := range files {
		for where, secret := range f.secrets {
			for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret))} {
				if strings.Contains(content, form) {
					t.Errorf("%s has a secret: %s", name, where)
				}
			}
		}
		if host, err := os.Hostname(); err != nil || len(host) > 3 && strings.Contains(content, host) {
			t.Errorf("%s has the host's name, %v", name, err)
		}
	}
	if len(f.secrets) < 10 {
		t.Errorf("only %d secrets", len(f.secrets))
	}
	// What it is for is there.
	for name, wants := range map[string][]string{
		"README":         {"versions.json"},
		"collect.json":   {`"version": "1.0"`, `"failed": []`},
		"sandboxes.json": {`"id": "web"`, `"state": "lost"`, `"path": "/srv/~`, `"driver": "qemu"`, `"memory": 536870912`},
		"processes.json": {`"of": "default/web"`, `"name": "virtiofsd"`, `"VmRSS": "4096 kB"`, "Max open files 1024 4096 files", `"oom_score_adj": "-998"`},
		"cgroups.json":   {`"/default/web"`, `"memory.current": "4096"`},
		"versions.json":  {`/kit/vmlinux"`, `"sha256": "`, `"kit": "msb 1.0\n"`},
		"check.json":     {`"name": "kernel"`},
		"config.json":    {`"value": "2"`, `config.toml:2"`},
		"spares.json":    {"[]"},
	} {
		for _, want := range wants {
			if !strings.Contains(files[name], want) {
				t.Errorf("%s has no %q:\n%s", name, want, files[name])
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// What cannot be read is told, and the rest is there.
func TestPartsFail(t *testing.T) {
	parts, failed := Source{Host: survey.Host{State: "/no/state"}, Config: "/no/config", Facts: check.Facts{Kit: check.Kit{Dir: "/no/kit"}}}.Parts(t.Context(), time.Now())
	said := strings.Join(failed, "\n")
	for _, want := range []string{"sandboxes.json: ", "/no/state", "config.json: ", "/no/config", "versions.json: ", "/no/kit"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in %q", want, said)
		}
	}
	if strings.Count(said, "\n") != len(failed)-1 {
		t.Errorf("one of %q has several lines", failed)
	}
	var out bytes.Buffer
	if err := pack(&out, parts, time.Now()); err != nil || len(parts) != 9 {
		t.Errorf("%d parts, %v", len(parts), err)
	}
}

// An archive that cannot be whole is not there, and what was there stays.
func TestWriteFails(t *testing.T) {
	random := make([]byte, 128<<10)
	_, _ = rand.Read(random)
	now := time.Now()
	parts := []Part{{"random", string(random)}}
	entries := func(dir string) (names []string) {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, entry := range all {
			names = append(names, entry.Name())
		}
		return names
	}
	full := t.TempDir()
	err := mountns.Namespace{}.Copy(func() error {
		if err := unix.Mount("msb-test", full, "tmpfs", 0, "size=32k"); err != nil {
			return err
		}
		path := filepath.Join(full, "a.tar.gz")
		if err := Write(t.Context(), path, []Part{{"text", "before"}}, now); err != nil {
			return err
		}
		err := Write(t.Context(), path, parts, now)
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "its file system is full: free some of it") {
			t.Errorf("a full disk: %v", err)
		}
		if left := entries(full); !slices.Equal(left, []string{"a.tar.gz"}) {
			t.Errorf("left: %q", left)
		}
		if files := unpack(t, path); files["text"] != "before" {
			t.Errorf("the older one: %q", files)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(over, filepath.Join(dir, "a"), parts, now); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := Write(t.Context(), filepath.Join(dir, "a"), []Part{{"channel", make(chan int)}}, now); err == nil {
		t.Error("what is no JSON is written")
	}
	if left := entries(dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if err := Write(t.Context(), "/no/directory/a", parts, now); err == nil || !strings.Contains(err.Error(), "/no/directory/a is not written") {
		t.Errorf("no directory: %v", err)
	}
	// What is no file keeps its name: /dev/null would be lost to the whole host.
	special := t.TempDir()
	for name, make := range map[string]func(string) error{
		"device": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"FIFO":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":   func(path string) error { return os.Symlink("/no/file", path) },
	} {
		path := filepath.Join(special, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(t.Context(), path, parts, now); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.Lstat(path); err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s is replaced: %v, %v", name, after, err)
		}
	}
	if left := entries(special); len(left) != 3 {
		t.Errorf("left: %q", left)
	}
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), filepath.Join(dir, "b"), parts, now); err == nil || len(entries(dir)) != 1 {
		t.Errorf("a directory in its place: %v, %q", err, entries(dir))
	}
}

// A shim that another has started, as a spare, is told by itself.
func TestFamilies(t *testing.T) {
	f := fake{t, t.TempDir(), make(map[string]string)}
	f.process(41, "containerd-shim", "42 50 ")
	f.process(42, "qemu-system-x86", "")
	f.process(50, "containerd-shim", "51 ")
	f.process(51, "qemu-system-x86", "")
	f.process(60, "qemu-system-x86", "")
	sandbox := func(id string, shim, vmm int) survey.Inspection {
		s := survey.Sandbox{Namespace: "n", ID: id, VMM: &survey.Process{Pid: vmm}}
		if shim != 0 {
			s.Shim = &survey.Process{Pid: shim}
		}
		return survey.Inspection{Sandbox: s}
	}
	var got []string
	for _, one := range f.source().families([]survey.Inspection{sandbox("a", 41, 42), sandbox("b", 50, 51), sandbox("c", 0, 60), sandbox("d", 70, 71)},
		[]survey.Spare{{Pid: 42, State: spare.Dead, Dir: "/dead"}}) {
		line := one.Of
		for _, p := range one.Processes {
			line += fmt.Sprint(" ", p.Pid)
		}
		got = append(got, line)
	}
	if want := []string{"n/a 41 42", "n/b 50 51", "n/c 60", "n/d", "/dead"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestVeil(t *testing.T) {
	one, other := newVeil(), newVeil()
	got := one.path("/srv/alice/data/alice")
	parts := strings.Split(got, "/")
	if len(parts) != 5 || parts[1] != "srv" || parts[2] != parts[4] || parts[2] == parts[3] || !strings.HasPrefix(parts[2], "~") || strings.Contains(got, "alice") {
		t.Error(got)
	}
	if got == other.path("/srv/alice/data/alice") {
		t.Errorf("two archives have %s", got)
	}
	for _, same := range []string{"/", "", "hostname", "/etc/resolv.conf"} {
		if got := one.path(same); got != same {
			t.Errorf("%q is %q", same, got)
		}
	}
}

func TestGroupOf(t *testing.T) {
	for line, want := range map[string]string{
		"0::/default/web":      "/default/web",
		"0::/":                 "/",
		"4:memory:/a:b":        "/memory/a:b",
		"2:cpu,cpuacct:/a":     "/cpu,cpuacct/a",
		"1:name=systemd:/init": "",
		"odd":                  "",
	} {
		if got := groupOf(line); got != want {
			t.Errorf("%q is %q, want %q", line, got, want)
		}
	}
}
