package agent

import (
	"regexp"
	"strings"
)

// runtimeFailed is how containerd's task service begins an error of the OCI runtime's (go-runc).
const runtimeFailed = "OCI runtime "

// rootPath is where the guest has a container's root file system: the container's own paths
// begin behind it.
var rootPath = regexp.MustCompile(`/run/msb/(?:pool|roots)/[^/` + "`" + `]+`)

// words are what crun says of what clients send most often wrongly, and runc's words for it:
// clients look for some of them (Docker takes exit codes from them), and people know them. In
// crun's text a name stands between backquotes, and the kernel's error is glibc's (strerror(3)).
var words = []struct {
	crun *regexp.Regexp
	runc string
}{
	{
		regexp.MustCompile("(?s)executable file `(.*)` not found in \\$PATH: No such file or directory$"),
		`exec: "$1": executable file not found in $$PATH`,
	},
	{
		regexp.MustCompile("(?s)executable file `(.*)` not found: No such file or directory$"),
		`exec: "$1": stat $1: no such file or directory`,
	},
	{
		regexp.MustCompile("(?s)the path `(.*)` exists but it is not executable: Operation not permitted$"),
		`exec: "$1": permission denied`,
	},
	{
		regexp.MustCompile("(?s)the path `(.*)` is not a regular file: Operation not permitted$"),
		`exec: "$1": permission denied`,
	},
	{
		regexp.MustCompile("(?s)cannot open `(.*)`: (.*)$"),
		`exec: "$1": $2`,
	},
	{
		regexp.MustCompile("(?s)chdir to `(.*)`: (.*)$"),
		`chdir to cwd ("$1") set in config.json failed: $2`,
	},
	{
		regexp.MustCompile("(?s)mount `(.*)` to `/?(.*)`: Not a directory$"),
		`error mounting "$1" to rootfs at "/$2": not a directory: ` +
			`Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type`,
	},
	{
		regexp.MustCompile("(?s)mount `(.*)` to `/?(.*)`: (.*)$"),
		`error mounting "$1" to rootfs at "/$2": $3`,
	},
}

// begins are the words that each of runc's own layers puts before an error.
var begins = []struct{ crun, runc string }{
	{"OCI runtime create failed: ", "OCI runtime create failed: runc create failed: unable to start container process: error during container init: "},
	{"OCI runtime exec failed: ", "OCI runtime exec failed: exec failed: unable to start container process: "},
}

// kernelErrors are glibc's words for errors of the kernel's that end a text, which Go, and so
// runc, has with small letters.
var kernelErrors = regexp.MustCompile(`(: )([A-Z])([a-z -]+)$`)

// inRuncsWords is an error's text as runc would say it, as far as it is of the OCI runtime's.
func inRuncsWords(text string) string {
	if !strings.HasPrefix(text, runtimeFailed) {
		return text
	}
	text = rootPath.ReplaceAllString(text, "")
	for _, known := range words {
		if found := known.crun.FindStringSubmatchIndex(text); found != nil {
			text = text[:found[0]] + string(known.crun.ExpandString(nil, known.runc, text, found))
			break
		}
	}
	for _, begin := range begins {
		if rest, is := strings.CutPrefix(text, begin.crun); is {
			text = begin.runc + rest
		}
	}
	text = strings.ReplaceAll(text, "`", `"`)
	if found := kernelErrors.FindStringSubmatchIndex(text); found != nil {
		text = text[:found[4]] + strings.ToLower(text[found[4]:])
	}
	return text
}
