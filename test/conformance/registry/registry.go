// Package registry serves the images of an OCI image layout as a registry does, to
// who only pulls (OCI Distribution Specification, "Pull").
package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

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
	data, err := os.ReadFile(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("reading the index of %s: %w", dir, err)
	}
	r := &Registry{dir: dir, manifests: make(map[string]v1.Descriptor), types: make(map[digest.Digest]string)}
	for _, descriptor := range index.Manifests {
		r.manifests[descriptor.Annotations[v1.AnnotationRefName]] = descriptor
		r.types[descriptor.Digest] = descriptor.MediaType
	}
	return r, nil
}

// Handler is the registry's API.
func (r *Registry) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	for _, depth := range []struct{ pattern, join string }{{"{a}", ""}, {"{a}/{b}", "/"}} {
		name := func(q *http.Request) string { return q.PathValue("a") + depth.join + q.PathValue("b") }
		mux.HandleFunc("GET /v2/"+depth.pattern+"/manifests/{reference}", func(w http.ResponseWriter, q *http.Request) {
			r.manifest(w, q, name(q), q.PathValue("reference"))
		})
		mux.HandleFunc("GET /v2/"+depth.pattern+"/blobs/{digest}", func(w http.ResponseWriter, q *http.Request) {
			r.blob(w, q, digest.Digest(q.PathValue("digest")), "application/octet-stream")
		})
	}
	return mux
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
	http.ServeFile(w, q, filepath.Join(r.dir, v1.ImageBlobsDir, content.Algorithm().String(), content.Encoded()))
}
