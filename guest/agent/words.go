package agent

import (
	"regexp"
	"strings"
	"sync"
)

// A pattern is compiled when an error has to be worded, and not at each start of a VM.
type pattern = func() *regexp.Regexp

func lazily(text string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// runtimeFailed is how containerd's task service begins an error of the OCI runtime's (go-runc).
var runtimeFailed = lazily(`^OCI runtime ([a-z]+) failed: `)

// begins are the words that each of runc's own layers puts before an error, by what failed.
var begins = map[string]string{
	"create": "runc create failed: unable to start container process: error during container init: ",
	"exec":   "exec failed: unable to start container process: ",
}

// words are what crun says of what clients send most often wrongly, and runc's words for it:
// clients look for some of them (Docker takes exit codes from them), and people know them. In
// crun's text a name stands between backquotes, which it may have itself.
var words = []struct {
	crun pattern
	runc string
}{
	{crunSays("executable file `(.*)` not found in \\$PATH: no such file or directory"), `exec: "$1": executable file not found in $$PATH`},
	{crunSays("executable file `(.*)` not found: no such file or directory"), `exec: "$1": stat $1: no such file or directory`},
	{crunSays("the path `(.*)` exists but it is not executable: operation not permitted"), `exec: "$1": permission denied`},
	{crunSays("the path `(.*)` is not a regular file: operation not permitted"), `exec: "$1": permission denied`},
	{crunSays("cannot open `(/.*)`: (permission denied|is a directory)"), `exec: "$1": $2`},
	{crunSays("chdir to `(.*)`: ([^`:]*)"), `chdir to cwd ("$1") set in config.json failed: $2`},
	{
		crunSays("mount `(.*)` to `/?(.*)`: not a directory"), `error mounting "$1" to rootfs at "/$2": not a directory: ` +
			`Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type`,
	},
	{crunSays("mount `(.*)` to `/?(.*)`: ([^`:]*)"), `error mounting "$1" to rootfs at "/$2": $3`},
}

// crunSays matches the whole of a text; a name in it may have several lines.
func crunSays(text string) pattern { return lazily("(?s)^" + text + "$") }

// rootPath is where the guest has a container's root file system: the container's own paths
// begin with the slash behind it.
var rootPath = lazily("`/run/msb/(?:pool|roots)/[^/`]+/")

// ours are names of the guest's that a container's own do not begin with: what is about them is
// not about what the client has sent.
var ours = lazily("^(?:cannot open|chdir to) `/run/(?:msb|crun)/")

// kernelErrors are glibc's words for errors of the kernel's that end a text (strerror(3)), which
// Go, and so runc, has with small letters.
var kernelErrors = lazily(`: [A-Z][a-z/' -]+$`)

// inRuncsWords is an error's text as runc would say it, as far as it is of the OCI runtime's.
func inRuncsWords(text string) string {
	begin := runtimeFailed().FindStringSubmatch(text)
	if begin == nil {
		return text
	}
	text = strings.TrimPrefix(text, begin[0])
	if at := kernelErrors().FindStringIndex(text); at != nil {
		text = text[:at[0]] + strings.ToLower(text[at[0]:])
	}
	if !ours().MatchString(text) {
		text = inWords(rootPath().ReplaceAllString(text, "`/"))
	}
	return begin[0] + begins[begin[1]] + text
}

func inWords(text string) string {
	for _, known := range words {
		if found := known.crun().FindStringSubmatchIndex(text); found != nil {
			return string(known.crun().ExpandString(nil, known.runc, text, found))
		}
	}
	return text
}
