package collect

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// A veil changes the names in paths: each into one that is the same wherever it is in this
// archive, and another in any other. The key is forgotten, so nobody can try names. How deep a
// path is, what is below what, and what was mounted twice can be seen all the same.
type veil struct{ key []byte }

func newVeil() veil {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails
	return veil{key}
}

// plain are names that many hosts have, which say what a path is.
var plain = func() map[string]bool {
	names := make(map[string]bool)
	for _, name := range strings.Fields(`bin boot dev etc home lib media mnt opt proc root run sbin srv sys tmp usr var
		kubelet pods volumes containerd docker hostname hosts resolv.conf passwd group shm`) {
		names[name] = true
	}
	return names
}()

func (v veil) path(path string) string {
	names := strings.Split(path, "/")
	for i, name := range names {
		if name == "" || plain[name] {
			continue
		}
		sum := hmac.New(sha256.New, v.key)
		sum.Write([]byte(name))
		const enough = 6
		names[i] = "~" + hex.EncodeToString(sum.Sum(nil)[:enough])
	}
	return strings.Join(names, "/")
}
