package survey

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// process makes one of the host's, with its children, in a world whose processes are made.
func (w world) process(pid int, program, dir string, children ...int) string {
	w.t.Helper()
	of := filepath.Join(w.host.Proc, strconv.Itoa(pid))
	w.must(os.MkdirAll(filepath.Join(of, "task", strconv.Itoa(pid)), 0o700))
	w.must(os.MkdirAll(filepath.Join(of, "fd"), 0o700))
	w.must(os.WriteFile(filepath.Join(of, "stat"), fmt.Appendf(nil, "%d (x) S 1 7 7 0 -1 4194560 1 2 3 4 5 0 7 8 20 0 1 0 100 1000 3 1", pid), 0o600))
	w.must(os.WriteFile(filepath.Join(of, "task", strconv.Itoa(pid), "children"), []byte(strings.Trim(fmt.Sprint(children), "[]")), 0o600))
	w.must(os.Symlink(program, filepath.Join(of, "exe")))
	w.must(os.Symlink(dir, filepath.Join(of, "cwd")))
	return of
}

// listens has a process listen at an address, and at another that is no shim's.
func (w world) listens(of, address string) {
	w.t.Helper()
	path := filepath.Join(filepath.Dir(strings.TrimPrefix(address, "unix://")), strings.Repeat("0123456789abcdef", 4))
	w.must(os.Symlink("s", path))
	w.must(os.Symlink("/dev/null", filepath.Join(of, "fd", "0")))
	w.must(os.Symlink("socket:[76]", filepath.Join(of, "fd", "3")))
	w.must(os.Symlink("socket:[77]", filepath.Join(of, "fd", "4")))
	w.must(os.Symlink("socket:[78]", filepath.Join(of, "fd", "5")))
	w.must(os.Mkdir(filepath.Join(of, "net"), 0o700))
	other := strings.Replace(path, "0123", "ffff", 1)
	w.must(os.WriteFile(filepath.Join(of, "net", "unix"), []byte("Num       RefCount Protocol Flags    Type St Inode Path\n"+
		"0000000000000000: 00000003 00000000 00000000 0001 03 76 "+other+"\n"+ // a connection
		"0000000000000000: 00000002 00000000 00010000 0001 01 79 "+other+"\n"+ // another process's
		"0000000000000000: 00000002 00000000 00010000 0001 01 78 /run/msb/socket\n"+
		"0000000000000000: 00000003 00000000 00000000 0001 03 80\n"+
		"0000000000000000: 00000002 00000000 00010000 0001 01 77 "+path+"\n"), 0o600))
}

// VMs that containerd has forgotten are found by their shims, and nothing else is.
func TestForgotten(t *testing.T) {
	const removed, shim, qemu, krun = " (deleted)", "/usr/bin/containerd-shim-msb-v2", "/usr/bin/qemu-system-x86_64", "/usr/lib/msb/msb-krun"
	running, stopped := tasktypes.Status_RUNNING, tasktypes.Status_STOPPED
	for name, c := range map[string]struct {
		program, dir, vmm string
		states            map[string]tasktypes.Status // nil: nobody answers there
		silent            bool                        // there is no socket
		want              string                      // empty: it is none
	}{
		"a container's":         {shim, taskDir + "/default/web" + removed, qemu, map[string]tasktypes.Status{"web": running}, false, "default/web running web=running qemu"},
		"of a removed package":  {shim + removed, taskDir + "/default/.web" + removed, krun + removed, map[string]tasktypes.Status{"web": running}, false, "default/web running web=running krun"},
		"a pod's":               {shim, sandboxDir + "/k8s.io/.pod" + removed, krun, map[string]tasktypes.Status{}, false, "k8s.io/pod running krun"},
		"whose VM has ended":    {shim, taskDir + "/default/web" + removed, "", map[string]tasktypes.Status{"web": stopped}, false, "default/web stopped web=stopped "},
		"that hangs":            {shim, taskDir + "/default/web" + removed, qemu, nil, false, "default/web hung web= qemu"},
		"that hangs without VM": {shim, taskDir + "/default/web" + removed, "", nil, false, "default/web hung web= "},
		"without a socket":      {shim, taskDir + "/default/web" + removed, qemu, nil, true, "default/web hung web= qemu"},
		"that ends":             {shim, taskDir + "/default/web" + removed, "", map[string]tasktypes.Status{}, false, ""},
		"that has ended":        {shim, taskDir + "/default/web" + removed, "", nil, true, ""},
		"that containerd knows": {shim, taskDir + "/default/web", qemu, map[string]tasktypes.Status{"web": running}, false, ""},
		"another program":       {"/usr/bin/containerd-shim-runc-v2", taskDir + "/default/web" + removed, qemu, map[string]tasktypes.Status{"web": running}, false, ""},
		"below a bundle":        {shim, taskDir + "/default/web/rootfs" + removed, qemu, map[string]tasktypes.Status{"web": running}, false, ""},
		"another plugin's":      {shim, "io.containerd.other/default/web" + removed, qemu, map[string]tasktypes.Status{"web": running}, false, ""},
		"of another containerd": {shim, "../other/" + taskDir + "/default/web" + removed, qemu, map[string]tasktypes.Status{"web": running}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.host.Proc = t.TempDir()
			state := w.host.State
			link := filepath.Join(t.TempDir(), "state")
			w.must(os.Symlink(state, link))
			w.host.State = link
			children := []int{8}
			w.process(8, "/usr/lib/msb/msb-placeholder", "/")
			if c.vmm != "" {
				w.process(9, c.vmm, "/")
				children = append(children, 9)
			}
			of := w.process(7, c.program, filepath.Join(state, c.dir), children...)
			switch {
			case c.silent:
			case c.states == nil:
				_, address := w.listen()
				w.host.Patience = 10 * time.Millisecond
				w.listens(of, address)
			default:
				w.listens(of, w.shim(c.states))
			}
			found, err := w.host.Find(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i, line := range lines(found) {
				got = append(got, line+" "+found[i].Driver)
			}
			if want := strings.Split(c.want, "\n"); c.want == "" && len(got) > 0 || c.want != "" && !slices.Equal(got, want) {
				t.Fatalf("found %q, want %q", got, c.want)
			}
			if c.want == "" {
				return
			}
			if s := found[0]; !s.Forgotten || s.Shim.Pid != 7 || (s.VMM != nil) != (c.vmm != "") || (s.Started != nil) != (c.vmm != "") || !strings.HasSuffix(s.Bundle, removed) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// One that is forgotten is beside another of its name, which is meant by it.
func TestForgottenName(t *testing.T) {
	w := newWorld(t)
	w.host.Proc = t.TempDir()
	for pid, id := range map[int]string{7: "web", 17: "web", 27: "lost"} {
		w.process(pid+1, "/usr/lib/msb/msb-krun", "/")
		of := w.process(pid, "/usr/bin/containerd-shim-msb-v2", filepath.Join(w.host.State, taskDir, "default", "."+id)+" (deleted)", pid+1)
		w.listens(of, w.shim(map[string]tasktypes.Status{id: tasktypes.Status_RUNNING}))
	}
	w.bundle(taskDir, "default", "web", w.shim(map[string]tasktypes.Status{"web": tasktypes.Status_RUNNING}), &sandbox.Record{Shim: 3})
	found, err := w.host.Find(t.Context())
	if err != nil || len(found) != 4 || !found[0].Forgotten || found[1].Forgotten || !found[2].Forgotten || !found[3].Forgotten {
		t.Fatalf("%+v, %v", found, err)
	}
	if s, err := Pick(found, "", "web"); err != nil || s.Forgotten {
		t.Errorf("web is %+v, %v", s, err)
	}
	if s, err := Pick(found, "", "lost"); err != nil || !s.Forgotten || s.Shim.Pid != 27 {
		t.Errorf("lost is %+v, %v", s, err)
	}
	if _, err := Pick(found[2:], "", "web"); err == nil {
		t.Error("two of one name are one")
	}
}
