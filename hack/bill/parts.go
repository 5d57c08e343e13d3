package main

import (
	"bufio"
	"bytes"
	"cmp"
	"debug/buildinfo"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// kit is where the kit is below a root.
const kit = "usr/lib/msb"

// A part is what somebody else published, in one version.
type part struct {
	name, version string
	purl          string   // what programs know it by: the package URL's specification
	license       string   // SPDX's expression; empty if it is not known
	dir           string   // where its source is, or what it says of its licence; empty if it is not here
	texts         []string // of its licences, if they are not in dir
	comment       string
	in            []string // files of the root that it is in
}

// parts are those of an installation, once each.
type parts map[string]*part

func (p parts) add(file string, one part) {
	had := p[one.purl]
	if had == nil {
		had = &one
		p[one.purl] = had
	}
	if !slices.Contains(had.in, file) {
		had.in = append(had.in, file)
		slices.Sort(had.in)
	}
}

func (p parts) sorted() []*part {
	var all []*part
	for _, one := range p {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b *part) int { return cmp.Compare(a.purl, b.purl) })
	return all
}

func collect(output, root string) (parts, error) {
	all := parts{}
	// The guest's disk is an image: what is in it is there as files, too.
	programs := map[string]string{
		filepath.Join(output, "guest/msb-agent"): kit + "/guest.erofs",
	}
	files, err := filesOf(root)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		programs[filepath.Join(root, file)] = file
	}
	for program, file := range programs {
		if err := all.addModules(program, file); err != nil {
			return nil, err
		}
	}
	if err := all.findModules(); err != nil {
		return nil, err
	}
	for crate, file := range map[string]string{"libkrun": kit + "/libkrun.so.1", "virtiofsd": kit + "/virtiofsd"} {
		if slices.Contains(files, file) {
			if err := all.addCrates(crate, file); err != nil {
				return nil, err
			}
		}
	}
	versions, err := os.ReadFile(filepath.Join(root, kit, "VERSIONS"))
	if err != nil {
		return nil, err
	}
	libc, err := exec.Command("getconf", "GNU_LIBC_VERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("getconf GNU_LIBC_VERSION: %w", err)
	}
	return all, all.addOthers(string(versions)+string(libc), "/usr/share/doc")
}

// filesOf lists the files below a root, and its symbolic links.
func filesOf(root string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		files = append(files, name)
		return err
	})
	return files, err
}

// addModules adds the modules that are linked into a program of Go, and no other file's.
func (p parts) addModules(program, file string) error {
	info, err := buildinfo.ReadFile(program)
	if errors.As(err, new(*fs.PathError)) {
		return err
	}
	if err != nil {
		return nil // it is no program of Go
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	p.add(file, part{name: "Go's standard library", version: version, purl: "pkg:golang/std@" + version, license: "BSD-3-Clause"})
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		p.add(file, part{name: module.Path, version: module.Version, purl: "pkg:golang/" + module.Path + "@" + module.Version})
	}
	return nil
}

// findModules asks go where the modules' source is, and reads their licences.
func (p parts) findModules() error {
	args := []string{"mod", "download", "-json"}
	for _, one := range p {
		if one.purl != "pkg:golang/std@"+one.version {
			args = append(args, one.name+"@"+one.version)
		}
	}
	printed, err := output("go", args...)
	if err != nil {
		return err
	}
	for decoder := json.NewDecoder(bytes.NewReader(printed)); ; {
		var module struct{ Path, Version, Dir string }
		if err := decoder.Decode(&module); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("what go mod download printed: %w", err)
		}
		one := p["pkg:golang/"+module.Path+"@"+module.Version]
		if one == nil {
			return fmt.Errorf("go mod download tells of %s %s, which nobody asked for", module.Path, module.Version)
		}
		one.dir = module.Dir
		if one.license, err = licenseOf(one.dir); err != nil {
			return err
		}
	}
	root, err := output("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	for _, one := range p {
		if one.dir == "" {
			one.dir = strings.TrimSpace(string(root))
		}
	}
	return nil
}

// addCrates adds the crates that hack/PACKAGE links: not those which run at its build alone.
func (p parts) addCrates(name, file string) error {
	manifest := filepath.Join(name, "Cargo.toml")
	host, err := output("rustc", "-vV")
	if err != nil {
		return err
	}
	target := regexp.MustCompile(`(?m)^host: (.*)$`).FindSubmatch(host)
	if target == nil {
		return errors.New("rustc -vV names no host")
	}
	printed, err := output("cargo", "metadata", "--locked", "--offline", "--format-version", "1",
		"--filter-platform", string(target[1]), "--manifest-path", manifest)
	if err != nil {
		return err
	}
	var metadata struct {
		Packages []struct {
			Name, Version, License string
			Manifest               string `json:"manifest_path"`
			Source                 *string
		}
	}
	if err := json.Unmarshal(printed, &metadata); err != nil {
		return fmt.Errorf("what cargo metadata printed: %w", err)
	}
	tree, err := output("cargo", "tree", "--locked", "--offline", "--edges", "normal,no-proc-macro", "--prefix", "none",
		"--target", string(target[1]), "--format", "{p}", "--manifest-path", manifest)
	if err != nil {
		return err
	}
	linked := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(tree)); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 {
			linked[words[0]+"@"+strings.TrimPrefix(words[1], "v")] = true
		}
	}
	for _, crate := range metadata.Packages {
		id := crate.Name + "@" + crate.Version
		if crate.Source == nil || !linked[id] {
			continue // hack's own package has no source
		}
		one := part{
			name: crate.Name, version: crate.Version, purl: "pkg:cargo/" + id, dir: filepath.Dir(crate.Manifest),
			license: strings.ReplaceAll(crate.License, "/", " OR "),
		}
		if _, err := os.Stat(filepath.Join(name, crate.Name+".patch")); err == nil {
			one.comment = fmt.Sprintf("with msb's changes: hack/%s/%s.patch and hack/fileserver/acl.rs", name, crate.Name)
		}
		p.add(file, one)
	}
	return nil
}

var (
	source  = regexp.MustCompile(`(?m)^vmlinux from Debian package (\S+) (\S+), source's sha256 (\S+)$`)
	krunfw  = regexp.MustCompile(`(?m)^libkrunfw from npm package (\S+)@(\S+), sha256 (\S+)$`)
	crun    = regexp.MustCompile(`(?m)^crun from crun_(\S+)\.orig\.tar\.gz of Debian, sha256 (\S+)$`)
	library = regexp.MustCompile(`(?m)^crun has (\S+) (\S+)$`)
)

// libraries are what is linked into crun, by their packages, with their licences.
var libraries = map[string]string{
	"libc6-dev":      "LGPL-2.1-or-later",
	"libcap-dev":     "BSD-3-Clause OR GPL-2.0-only",
	"libseccomp-dev": "LGPL-2.1-only",
	"libyajl-dev":    "ISC",
}

// The texts of licences whose parts are built from archives, or are not built here.
var (
	//go:embed texts/GPL-2.0.txt
	gpl2 string
	//go:embed texts/LGPL-2.1.txt
	lgpl21 string
	//go:embed texts/Linux-syscall-note.txt
	syscallNote string
)

// addOthers adds the kernels and crun, with what is linked into it, from what the kit says of itself.
// docs is where packages have their copyright files, which Debian's policy demands (12.5).
func (p parts) addOthers(versions, docs string) error {
	find := func(what *regexp.Regexp) []string {
		found := what.FindStringSubmatch(versions)
		return append(found, make([]string, 4)...)
	}
	linux, fw, oci, linked := find(source), find(krunfw), find(crun), library.FindAllStringSubmatch(versions, -1)
	if linux[0] == "" || fw[0] == "" || oci[0] == "" || len(linked) != len(libraries) {
		return errors.New("VERSIONS does not say that the kit has a kernel of Debian's source, one of libkrunfw's package, and crun of Debian's source with its libraries")
	}
	const kernels = "GPL-2.0-only WITH Linux-syscall-note"
	kernelTexts := []string{gpl2, syscallNote}
	p.add(kit+"/vmlinux", part{
		name: "Linux, of Debian's " + linux[1], version: linux[2], license: kernels, purl: "pkg:deb/debian/" + linux[1] + "@" + linux[2], texts: kernelTexts,
		comment: "built from linux-source's archive with sha256 " + linux[3] + ", by hack/build-kernel with hack/kernel/config",
	})
	p.add(kit+"/vmlinux-tsi", part{
		name: "libkrunfw, of " + fw[1], version: fw[2], license: kernels, purl: "pkg:npm/" + strings.ReplaceAll(fw[1], "@", "%40") + "@" + fw[2], texts: kernelTexts,
		comment: "the kernel of the library with sha256 " + fw[3] + ", in another wrapping",
	})
	p.add(kit+"/guest.erofs", part{
		name: "crun", version: oci[1], license: "GPL-2.0-or-later AND LGPL-2.1-or-later", purl: "pkg:deb/debian/crun@" + oci[1],
		texts:   []string{gpl2, lgpl21},
		comment: "built from Debian's crun_" + oci[1] + ".orig.tar.gz with sha256 " + oci[2] + ", by hack/build-crun with hack/crun/crun.patch",
	})
	for _, one := range linked {
		license, known := libraries[one[1]]
		if !known {
			return fmt.Errorf("VERSIONS says that crun has %s, whose licence is not known here", one[1])
		}
		p.add(kit+"/guest.erofs", part{
			name: strings.TrimSuffix(one[1], "-dev"), version: one[2], license: license, purl: "pkg:deb/debian/" + one[1] + "@" + one[2],
			dir:     filepath.Join(docs, one[1]),
			comment: "of the distribution that it was built on, linked into crun",
		})
	}
	return nil
}

// output is what a program prints.
func output(program string, args ...string) ([]byte, error) {
	printed, err := exec.Command(program, args...).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil, fmt.Errorf("%s %s: %s (%w)", program, args[0], bytes.TrimSpace(exit.Stderr), err)
	}
	return printed, err
}
