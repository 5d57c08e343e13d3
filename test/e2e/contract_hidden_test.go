package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hiddenSecret is what files have that are hidden in one directory and not in the other.
const hiddenSecret = "s3cret"

// hiddenAttacks are what root of a privileged container tries with what is hidden in
// directory $d: .env, secrets/key, up/deep/key, and the directory empty. Beside them it has the
// file own and the directory seen.
var hiddenAttacks = []string{
	`has $d/.env`,
	`has $d/seen/../.env`,
	`has $d/secrets/../.env`,
	`has $d/secrets/key`,
	`has $d/up/deep/key`,
	`exec 3<$d/.env; has /proc/self/fd/3`,
	`has /proc/1/root$d/.env`,
	`cd $d/secrets && has key`,
	`[ -n "$(ls $d/secrets)" ]`,
	`[ -s $d/.env ]`,
	`mv $d/.env $d/moved && has $d/moved`,
	`mv $d/secrets $d/moved && has $d/moved/key`,
	`mv $d/up/deep $d/moved && has $d/moved/key`,
	`mv $d/up $d/moved && has $d/moved/deep/key`,
	`mv -f $d/own $d/.env && [ ! -e $d/own ]`,
	`rm $d/.env`,
	`rmdir $d/empty`,
	`ln $d/.env $d/linked && has $d/linked`,
	`ln -s .env $d/lead && has $d/lead`,
	`echo more >>$d/.env`,
	`chmod 777 $d/.env`,
	`touch $d/secrets/new`,
	`mknod $d/secrets/node p`,
	`mount -o remount,bind,rw $d/secrets; touch $d/secrets/new`,
	`umount -l $d/secrets; has $d/secrets/key`,
	`umount -l $d/.env; has $d/.env`,
	`mount -o bind $d /m/t && { has /m/t/secrets/key; end /m/t; }`,
	`mount -o bind $d/up /m/t && { has /m/t/deep/key; end /m/t; }`,
	`mount -t overlay overlay -o ro,lowerdir=$d:/etc /m/t && { has /m/t/.env; end /m/t; }`,
	`mount -t tmpfs tmpfs /m/t && mkdir /m/t/x && mount -o move $d/secrets /m/t/x; has $d/secrets/key; end /m/t`,
	`unshare -mUr sh -c "umount -l $d/secrets $d/.env; grep -q ` + hiddenSecret + ` $d/.env $d/secrets/key"`,
	`echo 3 >/proc/sys/vm/drop_caches; has $d/.env`,
	`tar c -C $d . | grep -q ` + hiddenSecret,
	`rm -rf /tmp/copy; cp -a $d /tmp/copy && has /tmp/copy/.env`,
}

// hiddenPrelude are the functions of the attacks: has reads the secret, end unmounts and
// answers what came before.
const hiddenPrelude = `has() { [ "$(cat $1)" = ` + hiddenSecret + ` ]; }; end() { local r=$?; umount -l $1; return $r; }; mkdir -p /m/t; `

// hiddenSources makes two directories of the same content, in one of which it is hidden, and
// one in which many names are.
func (c contract) hiddenSources(t *testing.T) []specs.Mount {
	t.Helper()
	var paths []string
	for _, dir := range append(numbers(len(hiddenAttacks)), "host") {
		for _, name := range []string{".env", "secrets/key", "up/deep/key"} {
			write(t, c.path("project/"+dir+"/"+name), hiddenSecret)
			write(t, c.path("shown/"+dir+"/"+name), hiddenSecret)
		}
		for _, of := range []string{"project/", "shown/"} {
			write(t, c.path(of+dir+"/own"), "own")
			if err := errors.Join(os.Mkdir(c.path(of+dir+"/empty"), 0o755), os.Mkdir(c.path(of+dir+"/seen"), 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		paths = append(paths, dir+"/.env", dir+"/secrets/", dir+"/up/deep/key", dir+"/empty")
	}
	if err := os.Link(c.path("project/host/.env"), c.path("project/host/hard")); err != nil {
		t.Fatal(err)
	}
	write(t, c.path("shown/.anywhere"), hiddenSecret)
	write(t, c.path("project/mark"), "/d/project")
	write(t, c.path("shown/mark"), "/d/shown")
	many := bind(c.path("crowd"), "/d/crowd", "rw")
	names := numbers(hiddenCrowd)
	for _, name := range names {
		write(t, c.path("crowd/"+name), hiddenSecret)
	}
	for len(names) > 0 {
		n := min(len(names), 500)
		many.Options, names = append(many.Options, "x-msb.hide="+strings.Join(names[:n], ",")), names[n:]
	}
	half := len(paths) / 2
	// They have more directories than a look for sockets reads.
	return []specs.Mount{
		bind(c.path("project"), "/d/project", "rw", "x-msb.sockets=off", "x-msb.hide="+strings.Join(paths[:half], ","), "x-msb.hide="+strings.Join(paths[half:], ",")),
		bind(c.path("shown"), "/d/shown", "rw", "x-msb.sockets=off"), many,
	}
}

// hiddenEverywhere is hidden by an annotation.
var hiddenEverywhere = map[string]string{"io.containerd.msb.mounts.hide": ".anywhere,not/there"}

const hiddenCrowd = 300

func numbers(many int) []string {
	names := make([]string, many)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	return names
}

// hiddenOutside tells what each mounted directory has in the pool itself. The guest's root
// runs it outside of its container, as what the kernel gives a core to (core(5)).
const hiddenOutside = `cat >/tmp/outside <<'END'
for p in /run/msb/pool/dm_*; do
	m= s=
	read m <$p/mark
	read s <$p/0/.env
	echo "$m:$s" >>/proc/$1/root/tmp/pool
done
echo end >>/proc/$1/root/tmp/pool
END
rm -f /tmp/pool
old=$(cat /proc/sys/kernel/core_pattern)
echo '|/proc/%P/root/bin/busybox sh /proc/%P/root/tmp/outside %P' >/proc/sys/kernel/core_pattern
( ulimit -c unlimited; sh -c 'kill -SEGV $$' ) 2>/dev/null
for n in $(seq 600); do grep -q end /tmp/pool && break; sleep 1; done
echo "$old" >/proc/sys/kernel/core_pattern
grep '^/d/' /tmp/pool | sort`

// vmHidden tries the attacks. Where nothing is hidden each must succeed.
func vmHidden(t *testing.T, c contract) {
	for mount, all := range map[string]bool{"/d/project": false, "/d/shown": true} {
		script := new(strings.Builder)
		script.WriteString(hiddenPrelude)
		for i, attack := range hiddenAttacks {
			fmt.Fprintf(script, "i=%d; d=%s/$i; if ( %s ) >/tmp/said 2>&1; then echo \"$i got it\"; else echo \"$i $(tr '\\n' ' ' </tmp/said)\"; fi; ", i, mount, attack)
		}
		said := strings.Split(c.must(script.String()), "\n")
		if len(said) != len(hiddenAttacks) {
			t.Fatalf("%s: %d answers: %q", mount, len(said), said)
		}
		for i, attack := range hiddenAttacks {
			if got := said[i] == fmt.Sprintf("%d got it", i); got != all {
				t.Errorf("%s: %s: %s", mount, attack, said[i])
			}
		}
	}
	if got := c.must(hiddenOutside); !strings.HasSuffix(got, "/d/project:\n/d/shown:"+hiddenSecret) {
		t.Errorf("in the pool, outside of the container: %q", got)
	}
	for _, dir := range numbers(len(hiddenAttacks)) {
		wantContent(t, c.path("project/"+dir+"/.env"), hiddenSecret)
	}
	if got := c.must("cat /d/shown/.anywhere; cat /d/project/host/hard"); got != hiddenSecret {
		t.Errorf("hidden by an annotation, and by another name: %q", got)
	}
}

// vmHiddenOnHost changes on the host what is hidden. The guest's caches are left out.
func vmHiddenOnHost(t *testing.T, c contract) {
	write(t, c.path("project/host/secrets/new"), hiddenSecret)
	c.replace("project/host/.env", hiddenSecret)
	deep := c.path("project/host/up/deep/key")
	if err := os.Rename(deep, deep+"~"); err != nil {
		t.Fatal(err)
	}
	write(t, deep, hiddenSecret)
	c.eventually("what has a hidden name now is hidden", `echo 3 >/proc/sys/vm/drop_caches; cd /d/project/host && ! grep -r `+hiddenSecret+` .env secrets up`)
	if got := c.must("ls /d/project/host/secrets; ls /d/project/host/up/deep"); got != "key\nkey~" {
		t.Errorf("the directories have %q", got)
	}
}

func vmHiddenMany(t *testing.T, c contract) {
	if got := c.must("ls /d/crowd | wc -l; cat /d/crowd/* | wc -c"); got != fmt.Sprintf("%d\n0", hiddenCrowd) {
		t.Errorf("of %d hidden files: %q", hiddenCrowd, got)
	}
}
