package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// What files are called that have a licence, or what a licence asks to be passed on.
var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]es?|copying|notice|unlicense|copyright)([-._].*)?$`)

// texts are a source's files about its licence, in the order of their names.
func texts(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !licenseFile.MatchString(entry.Name()) || filepath.Ext(entry.Name()) == ".go" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		found = append(found, strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")))
	}
	return found, nil
}

// licenseOf is SPDX's expression for the licences that a source's files have; empty if none is
// recognised.
func licenseOf(dir string) (string, error) {
	files, err := texts(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, text := range files {
		for _, match := range licensecheck.Scan([]byte(text)).Match {
			if !match.IsURL && !slices.Contains(found, match.ID) {
				found = append(found, match.ID)
			}
		}
	}
	slices.Sort(found)
	return strings.Join(found, " AND "), nil
}

// writeLicenses writes the list of parts, and each text of their licences once.
func writeLicenses(out io.Writer, all parts) error {
	fmt.Fprint(out, "What others wrote of what is installed here, under their own licences: NOTICE says what that is, too.\n\n")
	of := map[string][]string{}
	for _, one := range all.sorted() {
		license := one.license
		if license == "" {
			license = "see its text below"
		}
		fmt.Fprintf(out, "%s %s\n    licence: %s\n    in: %s\n", one.name, one.version, license, strings.Join(one.in, ", "))
		if one.comment != "" {
			fmt.Fprintf(out, "    %s\n", one.comment)
		}
		var files []string
		for _, text := range one.texts {
			files = append(files, strings.TrimSpace(text))
		}
		if one.dir != "" {
			found, err := texts(one.dir)
			if err != nil {
				return err
			}
			files = append(files, found...)
		}
		if len(files) == 0 {
			fmt.Fprintf(out, "    it is published without a text of its licence\n")
		}
		for _, text := range files {
			of[text] = append(of[text], one.name+" "+one.version)
		}
	}
	order := make([]string, 0, len(of))
	for text := range of {
		order = append(order, text)
	}
	slices.SortFunc(order, func(a, b string) int {
		if d := len(of[b]) - len(of[a]); d != 0 {
			return d
		}
		return strings.Compare(of[a][0]+a, of[b][0]+b)
	})
	line := strings.Repeat("=", 100)
	for _, text := range order {
		fmt.Fprintf(out, "\n%s\nOf %s:\n\n%s\n", line, strings.Join(of[text], ", "), text)
	}
	return nil
}
