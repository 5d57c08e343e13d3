// hello says what it runs on, and what is in a file that is mounted.
package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func main() {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		fmt.Println(err)
	}
	content, err := os.ReadFile("/mounted")
	writing := os.WriteFile("/mounted", nil, 0o600)
	fmt.Printf("%s %s %q %v %v\n", runtime.GOARCH, unix.ByteSliceToString(name.Machine[:]), content, err, writing)
}
