package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const versions = `msb v1
Linux version 6.12.117-msb
vmlinux from Debian package linux-source-6.12 6.12.117-1, source's sha256 aa
libkrunfw from npm package @some/where@0.6.18, sha256 bb
crun from crun_1.21.orig.tar.gz of Debian, sha256 cc
crun has libc6-dev 2.36-9
crun has libcap-dev 1:2.66-4
crun has libseccomp-dev 2.5.4-1
crun has libyajl-dev 2.1.0-3
`

// installed is a root with one file, and a part in it whose source has a licence.
func installed(t *testing.T) (root string, all parts) {
	t.Helper()
	root = t.TempDir()
	write(t, filepath.Join(root, "usr/bin/program"), "program")
	source := t.TempDir()
	license, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(source, "LICENSE"), string(license))
	write(t, filepath.Join(source, "license.go"), "package license")
	all = parts{}
	for _, name := range []string{"one", "two"} {
		all.add("usr/bin/program", part{name: name, version: "1.0", purl: "pkg:golang/" + name + "@1.0", dir: source})
	}
	return root, all
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOthers(t *testing.T) {
	docs := t.TempDir()
	for library := range libraries {
		write(t, filepath.Join(docs, library, "copyright"), "Copyright of "+library)
	}
	all := parts{}
	if err := all.addOthers(versions, docs); err != nil {
		t.Fatal(err)
	}
	for purl, file := range map[string]string{
		"pkg:deb/debian/linux-source-6.12@6.12.117-1": "vmlinux",
		"pkg:npm/%40some/where@0.6.18":                "vmlinux-tsi",
		"pkg:deb/debian/crun@1.21":                    "guest.erofs",
		"pkg:deb/debian/libseccomp-dev@2.5.4-1":       "guest.erofs",
		"pkg:deb/debian/libc6-dev@2.36-9":             "guest.erofs",
	} {
		if one := all[purl]; one == nil || one.in[0] != "usr/lib/msb/"+file || one.license == "" {
			t.Errorf("%s: %+v", purl, one)
		}
	}
	var out bytes.Buffer
	if err := writeLicenses(&out, all); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991", "GNU LESSER GENERAL PUBLIC LICENSE\n                       Version 2.1, February 1999",
		"This copyright does *not* cover user programs", "Copyright of libyajl-dev",
	} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the licences have no %q", text)
		}
	}
	if strings.Contains(out.String(), "without a text of its licence") {
		t.Error("a part has no text")
	}
	if err := (parts{}).addOthers(strings.Replace(versions, "libcap-dev", "libother-dev", 1), docs); err == nil {
		t.Error("a library of no known licence is no error")
	}
	for _, line := range strings.SplitAfter(versions, "\n") {
		known := source.MatchString(line) || krunfw.MatchString(line) || crun.MatchString(line) || library.MatchString(line)
		if err := (parts{}).addOthers(strings.Replace(versions, line, "", 1), docs); known && err == nil {
			t.Errorf("without %q there is no error", line)
		}
	}
}

func TestLicenses(t *testing.T) {
	_, all := installed(t)
	one := all["pkg:golang/one@1.0"]
	if license, err := licenseOf(one.dir); license != "Apache-2.0" || err != nil {
		t.Errorf("the licence is %q, %v", license, err)
	}
	var out bytes.Buffer
	if err := writeLicenses(&out, all); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "TERMS AND CONDITIONS FOR USE"); n != 1 {
		t.Errorf("one text is there %d times", n)
	}
	if !strings.Contains(out.String(), "\nOf one 1.0, two 1.0:\n") || strings.Contains(out.String(), "package license") {
		t.Errorf("it says:\n%s", out.String())
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	root, all := installed(t)
	var document, again bytes.Buffer
	for _, out := range []*bytes.Buffer{&document, &again} {
		if err := writeSPDX(out, all, root, "name", "1"); err != nil {
			t.Fatal(err)
		}
	}
	if document.String() != again.String() {
		t.Error("the same root has two documents")
	}
	path := filepath.Join(t.TempDir(), "name.spdx.json")
	write(t, path, document.String())
	if err := check(path, root); err != nil {
		t.Errorf("nothing has changed: %v", err)
	}
	for what, change := range map[string]func(root string){
		"another": func(root string) { write(t, filepath.Join(root, "usr/bin/program"), "another") },
		"more":    func(root string) { write(t, filepath.Join(root, "more"), "") },
		"none":    func(root string) { _ = os.Remove(filepath.Join(root, "usr/bin/program")) },
	} {
		root, _ := installed(t)
		change(root)
		if err := check(path, root); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	all.add("usr/bin/nowhere", part{name: "three", purl: "pkg:golang/three@1.0"})
	if err := writeSPDX(&again, all, root, "name", "1"); err == nil {
		t.Error("a part is in a file that is not installed, and that is no error")
	}
}
