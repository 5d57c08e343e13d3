package kubernetes

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVolumes(t *testing.T) {
	nothingLeft(t)
	host := filepath.Join(work, "host")
	directory, file := filepath.Join(host, "directory"), filepath.Join(host, "file")
	if err := errors.Join(os.MkdirAll(directory, 0o755), os.WriteFile(file, []byte("of the node\n"), 0o644),
		os.WriteFile(filepath.Join(directory, "there"), nil, 0o644), os.WriteFile(filepath.Join(host, "secret"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	serve(t, filepath.Join(host, "socket"))
	manifest, err := os.ReadFile("testdata/volumes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	start(t, string(manifest), "volumes")
	for name, c := range map[string]struct{ script, want string }{
		"ConfigMap":                  {"cat /settings/app.conf /settings/other.conf; echo $COLOUR", "colour=red\nsize=big\ncolour=red\n"},
		"ConfigMap, by links":        {"readlink /settings/app.conf; readlink /settings/..data", "..data/app.conf\n..20"},
		"one file of a ConfigMap":    {"cat /etc/one.conf; ls -l /etc/one.conf", "colour=red\n-rw-r--r--"},
		"Secret":                     {"cat /password/password; ls -lL /password/password", "correct horse-r--------"},
		"Secret, read-only":          {"touch /password/x 2>&1; true", "Read-only file system"},
		"projected token":            {"wc -c </projected/token; cat /projected/deep/other.conf /projected/labels", "size=big\nteam=\"blue\""},
		"service account":            {"cd /var/run/secrets/kubernetes.io/serviceaccount && cat namespace && ls", "defaultca.crt\nnamespace\ntoken"},
		"emptyDir, of init":          {"cat /scratch/part/file", "made before"},
		"subPath of a directory":     {"cat /part/file; touch /part/new && ls /scratch/part", "made before\nfile\nnew"},
		"emptyDir in memory":         {"df /memory | tail -n 1 | awk '{ print $2 }'; touch /memory/x && echo written", "4096\nwritten"},
		"hostPath, a directory":      {"ls /directory; echo by the pod >/directory/made", "there"},
		"hostPath, read-only":        {"ls /read-only; touch /read-only/x 2>&1; true", "Read-only file system"},
		"hostPath, a file":           {"cat /etc/file; echo changed >/etc/file", "of the node"},
		"nothing beside a file":      {"grep secret /proc/self/mountinfo; ls /etc | grep secret; echo searched", "searched"},
		"a socket":                   {"/tools/probe connect /run/host.sock hello", "the node heard hello"},
		"resolv.conf, hosts, names":  {"cat /etc/hosts; cat /etc/hostname; ls /etc/resolv.conf", "volumes\n/etc/resolv.conf"},
		"termination message's file": {"ls /dev/termination-log && echo bye >/dev/termination-log", "/dev/termination-log"},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, c.script, shell(t, "volumes", c.script), c.want)
		})
	}
	t.Run("what the pod wrote is on the node", func(t *testing.T) {
		for path, content := range map[string]string{file: "changed\n", filepath.Join(directory, "made"): "by the pod\n"} {
			if got, err := os.ReadFile(path); err != nil || string(got) != content {
				t.Errorf("%s has %q, %v, want %q", path, got, err, content)
			}
		}
	})
	t.Run("containers of a pod share a volume", func(t *testing.T) {
		shell(t, "volumes", "echo from main >/scratch/shared")
		want(t, "the other container", must(t, "exec", "volumes", "-c", "beside", "--", "cat", "/shared/shared"), "from main")
		must(t, "exec", "volumes", "-c", "beside", "--", "sh", "-c", "echo and back >>/shared/shared")
		want(t, "main", shell(t, "volumes", "cat /scratch/shared"), "from main\nand back")
	})
	t.Run("a changed ConfigMap", func(t *testing.T) {
		must(t, "patch", "configmap", "settings", "-p", `{"data":{"app.conf":"colour=green\n"}}`)
		eventually(t, "the new content", 2*time.Minute, func() (string, bool) {
			content := shell(t, "volumes", "cat /settings/app.conf")
			return content, content == "colour=green\n"
		})
		want(t, "a subPath stays as it was", shell(t, "volumes", "cat /etc/one.conf"), "colour=red")
	})
}

// serve answers each connection to a socket with what it heard.
func serve(t *testing.T, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 100)
			if n, err := conn.Read(buffer); err == nil {
				_, _ = io.WriteString(conn, "the node heard "+strings.TrimSpace(string(buffer[:n]))+"\n")
			}
			_ = conn.Close()
		}
	}()
}
