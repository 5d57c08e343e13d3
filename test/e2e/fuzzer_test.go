package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A fuzzer makes damaged copies of images with file systems, always the same of one seed.
type fuzzer struct {
	seed  uint64
	bases []fuzzBase
}

// A fuzzBase is a good image, and where in it what is.
type fuzzBase struct {
	name    string
	kind    string // erofs or ext4
	content []byte
	// regions are parts that the kernel reads much of. The first is the superblock.
	regions []fuzzRegion
}

type fuzzRegion struct {
	name     string
	from, to int
}

// entryName begins the names of the files in one directory of the bases, by which its blocks
// are found.
const entryName = "directory-entry-"

// fuzzUUID is that of the ext4 bases, which the kernel's log names.
const fuzzUUID = "6d736266-757a-7a65-6400-696d61676573"

// fuzzSums is the base that containerd's own are like.
const fuzzSums = 2

func newFuzzer(t *testing.T, seed uint64) *fuzzer {
	t.Helper()
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := fuzzTree(tree); err != nil {
		t.Fatal(err)
	}
	f := &fuzzer{seed: seed}
	for _, kind := range []struct{ name, command string }{
		{"plain.erofs", "mkfs.erofs --quiet FILE TREE"},
		{"compressed.erofs", "mkfs.erofs --quiet -zlz4hc FILE TREE"},
		// As containerd makes them.
		{"sums.ext4", "mke2fs -q -t ext4 -U " + fuzzUUID + " -d TREE FILE 4M"},
		// What no checksum tells is believed; and a journal is to be replayed.
		{"journal.ext4", "mke2fs -q -t ext4 -O ^metadata_csum -U " + fuzzUUID + " -d TREE FILE 4M && " +
			`printf 'journal_open\njournal_write -b 700,701,702 %s\njournal_close\n' TREE/plain | debugfs -w -f - FILE`},
	} {
		file := filepath.Join(dir, kind.name)
		command := strings.NewReplacer("FILE", file, "TREE", tree).Replace(kind.command)
		if output, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, output)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := fuzzBase{name: strings.TrimSuffix(kind.name, filepath.Ext(file)), kind: filepath.Ext(file)[1:], content: content}
		base.find(entryName)
		f.bases = append(f.bases, base)
	}
	return f
}

// fuzzTree makes a tree with every kind of file.
func fuzzTree(tree string) error {
	deep := filepath.Join(tree, "a/b/c/d")
	entries := filepath.Join(tree, "entries")
	plain := filepath.Join(tree, "plain")
	errs := []error{
		os.MkdirAll(deep, 0o755), os.Mkdir(entries, 0o700),
		os.WriteFile(plain, bytes.Repeat([]byte("plain text\n"), 400), 0o644),
		os.WriteFile(filepath.Join(tree, "large"), bytes.Repeat([]byte("it can be compressed "), 8000), 0o644),
		os.WriteFile(filepath.Join(deep, "empty"), nil, 0o4755),
		os.Symlink("plain", filepath.Join(tree, "link")),
		os.Symlink(strings.Repeat("long/", 60), filepath.Join(deep, "long-link")),
		os.Link(plain, filepath.Join(deep, "hard-link")),
		unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600),
		unix.Mknod(filepath.Join(tree, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		unix.Setxattr(plain, "user.name", []byte("value"), 0),
		unix.Setxattr(deep, "user.long", bytes.Repeat([]byte("long"), 200), 0),
		unix.Setxattr(plain, "trusted.overlay.opaque", []byte("y"), 0),
	}
	noise := make([]byte, 60_000)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(noise)
	errs = append(errs, os.WriteFile(filepath.Join(tree, "noise"), noise, 0o644))
	for i := range 120 { // more than a block
		errs = append(errs, os.WriteFile(filepath.Join(entries, fmt.Sprintf("%s%d", entryName, i)), []byte("x"), 0o644))
	}
	return errors.Join(errs...)
}

// find finds the regions. The blocks of directories are those that have a name in them.
func (b *fuzzBase) find(name string) {
	const superblock = 1024
	super, block := b.content[superblock:], 0
	switch b.kind {
	case "erofs": // struct erofs_super_block (fs/erofs/erofs_fs.h)
		block = 1 << super[12]
		root := int(binary.LittleEndian.Uint32(super[40:]))*block + 32*int(binary.LittleEndian.Uint16(super[14:]))
		b.regions = []fuzzRegion{{"superblock", superblock, superblock + 128}, {"inodes", root, root + 2048}}
		// Its checksum is not asked for, as one who damages an image on purpose would do.
		super[8] &^= 1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	case "ext4": // struct ext4_super_block and ext4_group_desc (fs/ext4/ext4.h)
		block = 1024 << super[24]
		groups := (int(super[20]) + 1) * block
		inodes := int(binary.LittleEndian.Uint32(b.content[groups+8:])) * block
		size := int(binary.LittleEndian.Uint16(super[88:]))
		// The journal's inode has an extent, which begins with the journal's superblock.
		extent := inodes + 7*size + 40 + 12
		journal := int(binary.LittleEndian.Uint32(b.content[extent+8:])) * block
		b.regions = []fuzzRegion{
			{"superblock", superblock, superblock + 1024},
			{"groups", groups, groups + 64},
			{"inodes", inodes, inodes + 40*size},
			{"journal", journal, journal + 4*block},
		}
	}
	for at := 0; at < len(b.content); at += block {
		if bytes.Contains(b.content[at:min(at+block, len(b.content))], []byte(name)) {
			b.regions = append(b.regions, fuzzRegion{"directory", at, at + block})
		}
	}
}

// write writes the nth damaged image, whose file is named by what was done to it.
func (f *fuzzer) write(dir string, n int) error {
	base := f.bases[n%len(f.bases)]
	content, done := base.damage(f.seed, n/len(f.bases))
	return writeSparse(filepath.Join(dir, fmt.Sprintf("%04d-%s-%s.%s", n, base.name, done, base.kind)), content)
}

// damage is the nth damaged copy of a seed, and what was done to it. Any seven that follow each
// other have each kind of damage.
func (b *fuzzBase) damage(seed uint64, n int) (content []byte, done string) {
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	content = bytes.Clone(b.content)
	switch kind := n % 7; kind {
	case 2:
		return content[:random.IntN(len(content))], "truncated"
	case 3:
		const block = 1024
		for range 1 + random.IntN(8) {
			at := random.IntN(len(content)/block) * block
			other := random.IntN(len(content)/block) * block
			copy(content[at:at+block], b.content[other:])
		}
		return content, "moved"
	case 4:
		for range 1 + random.IntN(64) {
			content[random.IntN(min(len(content), 256<<10))] = byte(random.Uint32())
		}
		return content, "anywhere"
	default:
		region := b.regions[0] // the superblock
		if kind > 0 {
			region = b.regions[1+random.IntN(len(b.regions)-1)]
		}
		for range 1 + random.IntN(8) {
			change(random, content[region.from+random.IntN(region.to-region.from):])
		}
		return content, region.name
	}
}

// change changes the first bytes: a bit, a byte, or a number.
func change(random *rand.Rand, at []byte) {
	switch random.IntN(4) {
	case 0:
		at[0] ^= 1 << random.IntN(8)
	case 1:
		at[0] = byte(random.Uint32())
	case 2:
		copy(at, [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0x7f}, {1, 0, 0, 0}, {0, 0, 0, 0x80}}[random.IntN(5)])
	case 3:
		copy(at, binary.LittleEndian.AppendUint32(nil, random.Uint32N(4096)))
	}
}

// writeSparse writes a file with holes where there are only zeros.
func writeSparse(file string, content []byte) error {
	const block = 4096
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	zeros := make([]byte, block)
	errs := []error{out.Truncate(int64(len(content)))}
	for at := 0; at < len(content); at += block {
		part := content[at:min(at+block, len(content))]
		if !bytes.Equal(part, zeros[:len(part)]) {
			_, err := out.WriteAt(part, int64(at))
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, out.Close())...)
}
