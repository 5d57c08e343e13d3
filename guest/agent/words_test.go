package agent

import "testing"

func TestInRuncsWords(t *testing.T) {
	const root = "/run/msb/pool/dm_17226b0c0cef44a83cad1b5b38d3f72f"
	for text, want := range map[string]string{
		"OCI runtime create failed: executable file `nosuch` not found in $PATH: No such file or directory":          `OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "nosuch": executable file not found in $PATH`,
		"OCI runtime exec failed: executable file `a$1 b` not found in $PATH: No such file or directory":             `OCI runtime exec failed: exec failed: unable to start container process: exec: "a$1 b": executable file not found in $PATH`,
		"OCI runtime create failed: executable file `/nosuch` not found: No such file or directory":                  `OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "/nosuch": stat /nosuch: no such file or directory`,
		"OCI runtime create failed: the path `/etc/passwd` exists but it is not executable: Operation not permitted": `OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "/etc/passwd": permission denied`,
		"OCI runtime create failed: the path `/dev/null` is not a regular file: Operation not permitted":             `OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "/dev/null": permission denied`,
		"OCI runtime create failed: cannot open `/etc`: Is a directory":                                              `OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "/etc": is a directory`,
		"OCI runtime create failed: cannot open `/root/x`: Permission denied":                                        `OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "/root/x": permission denied`,
		"OCI runtime create failed: chdir to `/root`: Permission denied":                                             `OCI runtime create failed: runc create failed: unable to start container process: error during container init: chdir to cwd ("/root") set in config.json failed: permission denied`,
		"OCI runtime create failed: mount `/run/msb/files/c/fm_1` to `etc`: Not a directory": `OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting "/run/msb/files/c/fm_1" to rootfs at "/etc": not a directory: ` +
			`Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type`,
		"OCI runtime create failed: mount `tmpfs` to `/x/y`: Invalid argument":                     `OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting "tmpfs" to rootfs at "/x/y": invalid argument`,
		"OCI runtime create failed: open `" + root + "/etc/missing`: Read-only file system":        `OCI runtime create failed: runc create failed: unable to start container process: error during container init: open "/etc/missing": read-only file system`,
		"OCI runtime create failed: open `/run/msb/roots/c/etc/m`: No such file or directory":      `OCI runtime create failed: runc create failed: unable to start container process: error during container init: open "/etc/m": no such file or directory`,
		"OCI runtime create failed: mkdir `" + root + "/etc/missing`: Read-only file system":       `OCI runtime create failed: runc create failed: unable to start container process: error during container init: mkdir "/etc/missing": read-only file system`,
		"OCI runtime create failed: write to `/proc/sys/net/x`: Too many levels of symbolic links": `OCI runtime create failed: runc create failed: unable to start container process: error during container init: write to "/proc/sys/net/x": too many levels of symbolic links`,
		"OCI runtime create failed: unknown syscall":                                               "OCI runtime create failed: runc create failed: unable to start container process: error during container init: unknown syscall",
		"OCI runtime pause failed: unknown syscall":                                                "OCI runtime pause failed: unknown syscall",
		"mount `a` to `b`: Not a directory":                                                        "mount `a` to `b`: Not a directory",
		"":                                                                                         "",
	} {
		if is := inRuncsWords(text); is != want {
			t.Errorf("%s\n is %s\nnot %s", text, is, want)
		}
	}
}
