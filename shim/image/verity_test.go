package image

import (
	"bytes"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestReadVerity(t *testing.T) {
	got, err := ReadVerity([]byte(`{"roothash": "00ff", "hashoffset": 4096}`))
	if err != nil || !bytes.Equal(got.RootHash, []byte{0, 0xff}) || got.HashOffset != 4096 {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                                       "does not say how",
		`{"roothash": "00ff"`:                    "does not say how",
		`{"roothash": "", "hashoffset": 4096}`:   `root hash ""`,
		`{"roothash": "xy", "hashoffset": 4096}`: `root hash "xy"`,
		`{"roothash": "00", "hashoffset": 0}`:    "hash offset 0",
		`{"roothash": "00", "hashoffset": 4097}`: "hash offset 4097",
		`{"roothash": "00", "hashoffset": -1}`:   "does not say how",
	} {
		if _, err := ReadVerity([]byte(text)); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
