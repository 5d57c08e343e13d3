package main

import (
	"crypto/sha1" // SPDX 2.3 demands it of each file
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const unknown = "NOASSERTION"

// writeSPDX writes a document of SPDX 2.3: the package, its files, and the parts that are in them.
func writeSPDX(out io.Writer, all parts, root, name, version string) error {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	whole := &spdx.Package{
		PackageName: name, PackageSPDXIdentifier: "Package", PackageVersion: version, PackageDownloadLocation: unknown,
		FilesAnalyzed: false, PackageLicenseConcluded: unknown, PackageLicenseDeclared: "Apache-2.0", PackageCopyrightText: unknown,
		PackageLicenseComments: "msb's own; NOTICE and the packages below say what others wrote",
	}
	document := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: name + " " + version,
		DocumentNamespace: "urn:" + name + ":" + version,
		CreationInfo: &spdx.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: name + "-bill"}},
			Created:  time.Unix(seconds, 0).UTC().Format(time.RFC3339),
		},
		Packages: []*spdx.Package{whole},
	}
	relate := func(a common.ElementID, kind string, b common.ElementID) {
		document.Relationships = append(document.Relationships, &spdx.Relationship{
			RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: kind,
		})
	}
	relate("DOCUMENT", common.TypeRelationshipDescribe, whole.PackageSPDXIdentifier)
	files, err := filesOf(root)
	if err != nil {
		return err
	}
	ids := map[string]common.ElementID{}
	for i, file := range files {
		sums, err := sumsOf(root, file)
		if err != nil {
			return err
		}
		ids[file] = common.ElementID(fmt.Sprintf("File-%d", i))
		document.Files = append(document.Files, &spdx.File{
			FileName: "./" + file, FileSPDXIdentifier: ids[file], Checksums: sums, LicenseConcluded: unknown, FileCopyrightText: unknown,
		})
		relate(whole.PackageSPDXIdentifier, common.TypeRelationshipContains, ids[file])
	}
	for i, one := range all.sorted() {
		id := common.ElementID(fmt.Sprintf("Part-%d", i))
		license := one.license
		if license == "" {
			license = unknown
		}
		document.Packages = append(document.Packages, &spdx.Package{
			PackageName: one.name, PackageSPDXIdentifier: id, PackageVersion: one.version, PackageDownloadLocation: unknown,
			PackageLicenseConcluded: unknown, PackageLicenseDeclared: license, PackageCopyrightText: unknown, PackageComment: one.comment,
			PackageExternalReferences: []*spdx.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: one.purl,
			}},
		})
		for _, file := range one.in {
			if ids[file] == "" {
				return fmt.Errorf("%s is in %s, which is not installed", one.name, file)
			}
			relate(ids[file], common.TypeRelationshipContains, id)
		}
	}
	return spdxjson.Write(document, out, spdxjson.Indent(" "), spdxjson.EscapeHTML(false))
}

// sumsOf are those of a file's content, or of where a symbolic link leads.
func sumsOf(root, file string) ([]common.Checksum, error) {
	content, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	one, other := sha1.Sum(content), sha256.Sum256(content)
	return []common.Checksum{
		{Algorithm: common.SHA1, Value: hex.EncodeToString(one[:])},
		{Algorithm: common.SHA256, Value: hex.EncodeToString(other[:])},
	}, nil
}

// check compares a document with the files below a root.
func check(path, root string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var document spdx.Document
	if err := spdxjson.ReadInto(f, &document); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	wanted := map[string]*spdx.File{}
	for _, file := range document.Files {
		wanted[file.FileName] = file
	}
	files, err := filesOf(root)
	if err != nil {
		return err
	}
	var wrong []error
	for _, name := range files {
		file := wanted["./"+name]
		delete(wanted, "./"+name)
		if file == nil {
			wrong = append(wrong, fmt.Errorf("%s does not have %s", path, name))
			continue
		}
		sums, err := sumsOf(root, name)
		if err != nil {
			return err
		}
		for i, sum := range sums {
			if len(file.Checksums) != len(sums) || file.Checksums[i] != sum {
				wrong = append(wrong, fmt.Errorf("%s is another file than %s says", name, path))
				break
			}
		}
	}
	for name := range wanted {
		wrong = append(wrong, fmt.Errorf("%s has %s, which is not there", path, name))
	}
	return errors.Join(wrong...)
}
