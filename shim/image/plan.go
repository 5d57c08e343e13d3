// Package image plans root file systems that are made of images: files that hold a file
// system each, as containerd's snapshotters hand them over (containerd, docs/mounts.md).
// Such a file is staged for the guest as a mounted one is, and the guest's kernel reads what
// is in it: this host's never does.
package image

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// The types of file systems that the guest mounts from a file.
const (
	EROFS = "erofs"
	Ext4  = "ext4"
)

// Types and Transforms are those of containerd's mounts that msb sees to itself. What makes
// an image, mkfs, is left to containerd, who does it before it hands the image over.
var (
	Types      = []string{EROFS}
	Transforms = []string{transformFormat, transformMkdir}
)

const (
	transformFormat = "format"
	transformMkdir  = "mkdir"
)

// maxLower is how many lower directories Linux takes (fs/overlayfs/params.h, OVL_MAX_STACK).
const maxLower = 500

// OnHost is the image of a directory that is in none: its path is one of the host's.
const OnHost = -1

// A Root is a root file system that is to be made of images.
type Root struct {
	// Images are all that it needs.
	Images []Image
	// Make are the directories to be made first.
	Make []NewDir
	// Overlay is the root; where it is nil, Dir is.
	Overlay *Overlay
	Dir     Dir
	// ReadOnly makes the root read-only, whatever its images are.
	ReadOnly bool
}

// An Image is a file that holds a file system.
type Image struct {
	// Source is the file's path on the host.
	Source string
	// Type is EROFS or Ext4.
	Type string
	// ReadOnly tells that nothing writes to the file.
	ReadOnly bool
	// Devices are the paths of further files that hold data of an erofs image (erofs.rst,
	// the mount option device).
	Devices []string
	// Verity is the path of the file that says how the image is checked while it is read; empty
	// if it is not. See ReadVerity.
	Verity string
}

// A Dir is a directory of an image, or of the host.
type Dir struct {
	// Image is an index of Root.Images, or OnHost.
	Image int
	// Path is the directory's below the image's root; empty is the root itself. Of the host
	// it is absolute.
	Path string
}

// A NewDir is a directory that is made, with its parents, unless it is there.
type NewDir struct {
	Dir
	Mode     uint32
	UID, GID uint32
}

// An Overlay is an overlay of directories (overlayfs.rst).
type Overlay struct {
	// Lower are the lower directories, the top one first.
	Lower []Dir
	// Upper and Work are nil if nothing is to be written.
	Upper, Work *Dir
	// Options are the others, as mount(8) takes them.
	Options []string
	// UIDs and GIDs map the owners of the files of the lower directories, in the form of
	// containerd's mount options; empty is no mapping.
	UIDs, GIDs string
}

// InGuest tells whether the guest can make the root. Of this host only images are needed then,
// and no owners are mapped, which are this host's.
func (r *Root) InGuest() bool {
	if r.Overlay == nil {
		return r.Dir.Image != OnHost
	}
	onHost := func(d Dir) bool { return d.Image == OnHost }
	if r.Overlay.UIDs != "" || slices.ContainsFunc(r.Overlay.Lower, onHost) {
		return false
	}
	return r.Overlay.Upper == nil || !onHost(*r.Overlay.Upper)
}

// Plan is what containerd's mounts of a root file system ask for, or nil if there is no image
// among them.
func Plan(mounts []mount.Mount) (*Root, error) {
	if !slices.ContainsFunc(mounts, isImage) {
		return nil, nil
	}
	p := planner{root: &Root{}}
	last := len(mounts) - 1
	for i, m := range mounts {
		if err := p.add(m, i == last); err != nil {
			return nil, fmt.Errorf("mount %d of the root file system, of type %q: %w", i, m.Type, err)
		}
	}
	return p.root, nil
}

// isImage tells an image from what the host can mount. Whether the source of an erofs mount is
// a file is found when it is opened.
func isImage(m mount.Mount) bool {
	return IsType(m.Type) && (strings.HasSuffix(m.Type, EROFS) || slices.Contains(m.Options, "loop"))
}

// planner takes one mount after the other.
type planner struct{ root *Root }

// add adds a mount. Those before the last are images, and the last is a root of one or of all
// of them.
func (p *planner) add(m mount.Mount, last bool) error {
	kind, err := transformed(m.Type)
	if err != nil {
		return err
	}
	if isImage(m) {
		if err := p.addImage(m, kind); err != nil || !last {
			return err
		}
		p.root.Dir = Dir{Image: len(p.root.Images) - 1}
		p.root.ReadOnly = p.root.Images[p.root.Dir.Image].ReadOnly
		return nil
	}
	if !last {
		return fmt.Errorf("msb makes a root file system of erofs and ext4 images, and of nothing else beside them: %w", errdefs.ErrInvalidArgument)
	}
	switch kind {
	case "overlay":
		return p.addOverlay(m)
	case "bind":
		return p.addBind(m)
	}
	return fmt.Errorf("msb makes an overlay or a bind of images, and of this type nothing: %w", errdefs.ErrInvalidArgument)
}

// transformed is a mount's type without the transforms before it, all of which msb knows.
func transformed(kind string) (string, error) {
	parts := strings.Split(kind, "/")
	for _, transform := range parts[:len(parts)-1] {
		if !slices.Contains(Transforms, transform) {
			return "", ForManager(strconv.Quote(transform))
		}
	}
	return parts[len(parts)-1], nil
}

// ForManager refuses what containerd's mount manager should have done before.
func ForManager(what string) error {
	return fmt.Errorf("%s is for containerd's mount manager, which has not seen to it: enable containerd's plugin io.containerd.mount-manager.v1.bolt: %w", what, errdefs.ErrFailedPrecondition)
}

func (p *planner) addImage(m mount.Mount, kind string) error {
	image, others, err := imageOf(m, kind)
	if err == nil && len(others) > 0 {
		err = unknownOption(others[0])
	}
	p.root.Images = append(p.root.Images, image)
	return err
}

func unknownOption(option string) error {
	return fmt.Errorf("option %q of an image is not supported: leave it out: %w", option, errdefs.ErrInvalidArgument)
}

// IsType tells whether a type of mounts, with the transforms before it, is of an image.
func IsType(kind string) bool {
	return slices.Contains([]string{EROFS, Ext4}, kind[strings.LastIndex(kind, "/")+1:])
}

// Of is the image that a mount by itself asks for, and the options that are none of an image's.
func Of(m mount.Mount) (image Image, others []string, err error) {
	kind, err := transformed(m.Type)
	if err != nil {
		return Image{}, nil, err
	}
	for _, text := range append([]string{m.Source}, m.Options...) {
		if strings.Contains(text, "{{") {
			return Image{}, nil, fmt.Errorf("%q refers to another mount, and there is none before this one: name a path: %w", text, errdefs.ErrInvalidArgument)
		}
	}
	return imageOf(m, kind)
}

// imageOf is the image that a mount asks for, and the options that are none of an image's.
func imageOf(m mount.Mount, kind string) (image Image, others []string, err error) {
	image = Image{Source: m.Source, Type: kind, ReadOnly: kind == EROFS}
	for _, option := range m.Options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "loop":
		case "ro":
			image.ReadOnly = true
		case "rw":
			image.ReadOnly = kind == EROFS
		case "device":
			if !path.IsAbs(value) {
				return image, nil, fmt.Errorf("option %q does not name an absolute path: %w", option, errdefs.ErrInvalidArgument)
			}
			image.Devices = append(image.Devices, value)
		case "X-containerd.dmverity":
			image.Verity = value
		default:
			others = append(others, option)
		}
	}
	switch {
	case len(image.Devices) > 0 && kind != EROFS:
		err = fmt.Errorf("option device= is for an erofs image, and %s is of %s: leave it out: %w", image.Source, kind, errdefs.ErrInvalidArgument)
	case image.Verity != "" && (kind != EROFS || len(image.Devices) > 0):
		err = fmt.Errorf("dm-verity is for an erofs image in one file, and %s is none: leave it out: %w", image.Source, errdefs.ErrInvalidArgument)
	case !path.IsAbs(image.Source):
		err = fmt.Errorf("the source %q is not an absolute path: %w", image.Source, errdefs.ErrInvalidArgument)
	}
	return image, others, err
}

func (p *planner) addBind(m mount.Mount) (err error) {
	for _, option := range m.Options {
		switch {
		case option == "bind", option == "rbind", option == "rw":
		case option == "ro":
			p.root.ReadOnly = true
		case strings.HasPrefix(option, mkdirOption):
			err = p.addNewDir(option)
		default:
			err = fmt.Errorf("option %q of a bind of an image is not supported: leave it out: %w", option, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return err
		}
	}
	p.root.Dir, err = p.dir(m.Source)
	return err
}

func (p *planner) addOverlay(m mount.Mount) error {
	overlay := &Overlay{}
	p.root.Overlay = overlay
	for _, option := range m.Options {
		name, value, _ := strings.Cut(option, "=")
		var err error
		switch name {
		case "lowerdir":
			err = p.addLower(value)
		case "upperdir":
			overlay.Upper, err = p.dirOf(value)
		case "workdir":
			overlay.Work, err = p.dirOf(value)
		case "uidmap":
			overlay.UIDs = value
		case "gidmap":
			overlay.GIDs = value
		case "ro":
			p.root.ReadOnly = true
		case "rw":
		case "lowerdir+", "datadir+":
			err = fmt.Errorf("option %q is not supported: name all directories with lowerdir=: %w", option, errdefs.ErrInvalidArgument)
		case strings.TrimSuffix(mkdirOption, "="):
			err = p.addNewDir(option)
		default:
			overlay.Options = append(overlay.Options, option)
		}
		if err != nil {
			return err
		}
	}
	return p.checkOverlay(overlay)
}

// checkOverlay refuses what Linux would not take.
func (p *planner) checkOverlay(overlay *Overlay) error {
	switch {
	case len(overlay.Lower) == 0:
		return fmt.Errorf("an overlay has no lower directory: %w", errdefs.ErrInvalidArgument)
	case len(overlay.Lower) > maxLower:
		return fmt.Errorf("an overlay of %d lower directories, and Linux takes %d: use an image of fewer layers: %w", len(overlay.Lower), maxLower, errdefs.ErrInvalidArgument)
	case (overlay.Upper == nil) != (overlay.Work == nil):
		return fmt.Errorf("an overlay has one of upperdir and workdir, and needs both or none: %w", errdefs.ErrInvalidArgument)
	case overlay.Upper != nil && overlay.Upper.Image != overlay.Work.Image:
		return fmt.Errorf("upperdir and workdir of an overlay are in different file systems: %w", errdefs.ErrInvalidArgument)
	case (overlay.UIDs == "") != (overlay.GIDs == ""):
		return fmt.Errorf("an overlay has one of uidmap and gidmap, and needs both or none: %w", errdefs.ErrInvalidArgument)
	}
	if upper := overlay.Upper; upper != nil && upper.Image != OnHost && p.root.Images[upper.Image].ReadOnly {
		return fmt.Errorf("the upper directory of an overlay is in image %s, which is read-only: %w", p.root.Images[upper.Image].Source, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (p *planner) addLower(value string) error {
	value, err := p.expand(value)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(value, ":") {
		dir, err := p.parse(name)
		if err != nil {
			return err
		}
		p.root.Overlay.Lower = append(p.root.Overlay.Lower, dir)
	}
	return nil
}

// mkdirOption names a directory to be made: PATH[:MODE[:UID:GID]], the mode octal
// (containerd, docs/mounts.md).
const mkdirOption = "X-containerd.mkdir.path="

func (p *planner) addNewDir(option string) error {
	value, named := strings.CutPrefix(option, mkdirOption)
	invalid := fmt.Errorf("option %q does not name a directory to make as PATH[:MODE[:UID:GID]]: %w", option, errdefs.ErrInvalidArgument)
	if !named {
		return invalid
	}
	value, err := p.expand(value)
	if err != nil {
		return err
	}
	parts := strings.Split(value, ":")
	dir := NewDir{Mode: 0o700}
	if dir.Dir, err = p.parse(parts[0]); err != nil {
		return err
	}
	switch len(parts) {
	case 4:
		if dir.UID, err = number(parts[2], 10); err == nil {
			dir.GID, err = number(parts[3], 10)
		}
		if err != nil {
			return invalid
		}
		fallthrough
	case 2:
		if dir.Mode, err = number(parts[1], 8); err != nil || dir.Mode > 0o777 {
			return invalid
		}
	case 1:
	default:
		return invalid
	}
	if dir.Image != OnHost && p.root.Images[dir.Image].ReadOnly {
		return fmt.Errorf("a directory is to be made in image %s, which is read-only: %w", p.root.Images[dir.Image].Source, errdefs.ErrInvalidArgument)
	}
	p.root.Make = append(p.root.Make, dir)
	return nil
}

func number(text string, base int) (uint32, error) {
	value, err := strconv.ParseUint(text, base, 32)
	return uint32(value), err
}

// dir is the directory that a path with templates names.
func (p *planner) dir(text string) (Dir, error) {
	name, err := p.expand(text)
	if err != nil {
		return Dir{}, err
	}
	return p.parse(name)
}

func (p *planner) dirOf(text string) (*Dir, error) {
	dir, err := p.dir(text)
	return &dir, err
}
