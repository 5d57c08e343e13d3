package agent

import "testing"

func TestInRuncsWords(t *testing.T) {
	const (
		root   = "/run/msb/pool/dm_17226b0c0cef44a83cad1b5b38d3f72f"
		create = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: "
	)
	for text, want := range map[string]string{
		"executable file `nosuch` not found in $PATH: No such file or directory": `exec: "nosuch": executable file not found in $PATH`,
		"executable file `a\nb` not found in $PATH: No such file or directory":   "exec: \"a\nb\": executable file not found in $PATH",
		"executable file `a`b$1` not found in $PATH: No such file or directory":  "exec: \"a`b$1\": executable file not found in $PATH",
		"executable file `/nosuch` not found: No such file or directory":         `exec: "/nosuch": stat /nosuch: no such file or directory`,

		"the path `/etc/passwd` exists but it is not executable: Operation not permitted": `exec: "/etc/passwd": permission denied`,
		"the path `/dev/null` is not a regular file: Operation not permitted":             `exec: "/dev/null": permission denied`,

		"cannot open `/etc`: Is a directory":                        `exec: "/etc": is a directory`,
		"cannot open `/root/x`: Permission denied":                  `exec: "/root/x": permission denied`,
		"cannot open `proc`: Permission denied":                     "cannot open `proc`: permission denied",
		"cannot open `/run/crun/c/exec.fifo`: Permission denied":    "cannot open `/run/crun/c/exec.fifo`: permission denied",
		"chdir to `/root`: Permission denied":                       `chdir to cwd ("/root") set in config.json failed: permission denied`,
		"chdir to `" + root + "`: Permission denied":                "chdir to `" + root + "`: permission denied",
		"mount `/run/msb/files/c/fm_1` to `etc`: Not a directory":   `error mounting "/run/msb/files/c/fm_1" to rootfs at "/etc": not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type`,
		"mount `" + root + "` to `x`: Permission denied":            `error mounting "` + root + `" to rootfs at "/x": permission denied`,
		"mount `tmpfs` to `/x/y`: Invalid argument":                 `error mounting "tmpfs" to rootfs at "/x/y": invalid argument`,
		"move mount `a` to `b`: Invalid argument":                   "move mount `a` to `b`: invalid argument",
		"open `/a/mount `x` to `y`: Read-only file system":          "open `/a/mount `x` to `y`: read-only file system",
		"open `" + root + "/etc/missing`: Read-only file system":    "open `/etc/missing`: read-only file system",
		"open `/run/msb/roots/c/etc/m`: Input/output error":         "open `/etc/m`: input/output error",
		"open `/x/run/msb/roots/c/etc/m`: Input/output error":       "open `/x/run/msb/roots/c/etc/m`: input/output error",
		"write to `/proc/sys/x`: Too many levels of symbolic links": "write to `/proc/sys/x`: too many levels of symbolic links",
		"unknown syscall": "unknown syscall",
		"":                "",
	} {
		if is := inRuncsWords("OCI runtime create failed: " + text); is != create+want {
			t.Errorf("%s\n is %s\nnot %s", text, is, create+want)
		}
	}
	for text, want := range map[string]string{
		"OCI runtime exec failed: executable file `x` not found in $PATH: No such file or directory": `OCI runtime exec failed: exec failed: unable to start container process: exec: "x": executable file not found in $PATH`,
		"OCI runtime pause failed: no such thing":                                                    "OCI runtime pause failed: no such thing",
		"a layer: OCI runtime create failed: mount `a` to `b`: Not a directory":                      "a layer: OCI runtime create failed: mount `a` to `b`: Not a directory",
		"mount `a` to `b`: Not a directory":                                                          "mount `a` to `b`: Not a directory",
		"":                                                                                           "",
	} {
		if is := inRuncsWords(text); is != want {
			t.Errorf("%s\n is %s\nnot %s", text, is, want)
		}
	}
}
