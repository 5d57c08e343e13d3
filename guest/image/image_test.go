package image

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

func imageOf(tag string) *api.Image { return &api.Image{File: &api.FileMount{Tag: tag}} }

// An image that a root has twice is mounted once.
func TestMissing(t *testing.T) {
	one, two := imageOf("fm_1"), imageOf("fm_2")
	got, err := missing([]*api.Image{one, two, imageOf("fm_1")})
	if err != nil || len(got) != 2 || got[0] != one || got[1] != two {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []*api.Image{imageOf("../fm_1"), {}} {
		if _, err := missing([]*api.Image{one, bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
