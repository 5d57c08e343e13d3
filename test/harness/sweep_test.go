package harness

import "testing"

// What has lost its shim belongs to whom its control group is of, in either version.
func TestOwnerHasGroup(t *testing.T) {
	o := Owner{Dir: "/tmp/msb-test-77", Namespace: "test-12"}
	for groups, want := range map[string]bool{
		"":                                    false,
		"0::/\n":                              false,
		"0::/test-12/a\n":                     true,
		"0::/test-123/a\n":                    false,
		"0::/a/test-12\n":                     true,
		"0::/msb-test-77/pod1/b\n":            true,
		"9:name=systemd:/\n8:pids:/test-12/a": true,
		"9:name=systemd:/test-1/a\n8:pids:/":  false,
	} {
		if has := o.hasGroup(groups); has != want {
			t.Errorf("%q: %v", groups, has)
		}
	}
}
