// Package registry serves the images of an OCI image layout as a registry does, to
// who only pulls (OCI Distribution Specification, "Pull").
package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// A Registry serves a layout. It does not matter which registry is asked for.
type Registry struct {
	dir       string
	manifests map[string]v1.Descriptor // by the repository and tag that annotate them
	types     map[digest.Digest]string // the manifests' media types
}

// Open reads the layout's index.
func Open(dir string) (*Registry, error) {
	r := &Registry{dir: dir, manifests: make(map[string]v1.Descriptor), types: make(map[digest.Digest]string)}
	manifests, err := r.read(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	for _, descriptor := range manifests {
		r.manifests[descriptor.Annotations[v1.AnnotationRefName]] = descriptor
	}
	return r, nil
}

// read reads an index and those in it: an image for several platforms is one.
func (r *Registry) read(file string) ([]v1.Descriptor, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("reading the index %s: %w", file, err)
	}
	for _, descriptor := range index.Manifests {
		r.types[descriptor.Digest] = descriptor.MediaType
		if descriptor.MediaType == v1.MediaTypeImageIndex {
			if _, err := r.read(r.blobPath(descriptor.Digest)); err != nil {
				return nil, err
			}
		}
	}
	return index.Manifests, nil
}

func (r *Registry) blobPath(content digest.Digest) string {
	return filepath.Join(r.dir, v1.ImageBlobsDir, content.Algorithm().String(), content.Encoded())
}

// ServeHTTP implements http.Handler: the registry's API.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	resource, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	if !ok || q.Method != http.MethodGet && q.Method != http.MethodHead {
		http.NotFound(w, q)
		return
	}
	parent, last := path.Split(resource)
	switch name, kind := path.Split(strings.TrimSuffix(parent, "/")); {
	case resource == "":
	case kind == "manifests":
		r.manifest(w, q, strings.TrimSuffix(name, "/"), last)
	case kind == "blobs":
		r.blob(w, q, digest.Digest(last), "application/octet-stream")
	default:
		http.NotFound(w, q)
	}
}

func (r *Registry) manifest(w http.ResponseWriter, q *http.Request, name, reference string) {
	if found, ok := r.manifests[name+":"+reference]; ok {
		r.blob(w, q, found.Digest, found.MediaType)
		return
	}
	if mediaType, ok := r.types[digest.Digest(reference)]; ok {
		r.blob(w, q, digest.Digest(reference), mediaType)
		return
	}
	http.NotFound(w, q)
}

func (r *Registry) blob(w http.ResponseWriter, q *http.Request, content digest.Digest, mediaType string) {
	if content.Validate() != nil {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", content.String())
	http.ServeFile(w, q, r.blobPath(content))
}
