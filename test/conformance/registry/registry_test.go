package registry

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

const indexType = "application/vnd.oci.image.index.v1+json"

// inner is an image for platforms, with one manifest.
var inner = fmt.Sprintf(`{"manifests": [{"mediaType": %q, "digest": %q, "size": 4}]}`, manifestType, digest.FromString("part"))

// layout has two manifests, one of them under two tags, an index of another, and a blob.
func layout(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	var manifests string
	for i, image := range []struct{ content, name, mediaType string }{
		{"one", "pause:1", manifestType}, {"two", "a/b:1", manifestType}, {"two", "a/b:2", manifestType}, {inner, "a/b/c:1", indexType},
	} {
		if i > 0 {
			manifests += ","
		}
		manifests += fmt.Sprintf(`{"mediaType": %q, "digest": %q, "size": %d, "annotations": {"org.opencontainers.image.ref.name": %q}}`,
			image.mediaType, digest.FromString(image.content), len(image.content), image.name)
	}
	for _, content := range []string{"one", "two", inner, "part", "blob"} {
		if err := os.WriteFile(filepath.Join(blobs, digest.FromString(content).Encoded()), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"manifests": [`+manifests+`]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRegistry(t *testing.T) {
	r, err := Open(layout(t))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	defer server.Close()
	for _, c := range []struct{ method, path, content, mediaType string }{
		{http.MethodGet, "/v2/", "", ""},
		{http.MethodGet, "/v2/pause/manifests/1?ns=some.registry", "one", manifestType},
		{http.MethodGet, "/v2/a/b/manifests/1", "two", manifestType},
		{http.MethodGet, "/v2/a/b/manifests/2", "two", manifestType},
		{http.MethodGet, "/v2/a/b/manifests/" + digest.FromString("two").String(), "two", manifestType},
		{http.MethodGet, "/v2/a/b/c/manifests/1", inner, indexType},
		{http.MethodGet, "/v2/a/b/c/manifests/" + digest.FromString("part").String(), "part", manifestType},
		{http.MethodHead, "/v2/a/b/manifests/2", "", manifestType},
		{http.MethodGet, "/v2/a/b/blobs/" + digest.FromString("blob").String(), "blob", "application/octet-stream"},
	} {
		status, content, header := request(t, c.method, server.URL+c.path)
		if status != http.StatusOK || content != c.content || c.mediaType != "" && header.Get("Content-Type") != c.mediaType {
			t.Errorf("%s %s: %d %q %q", c.method, c.path, status, content, header.Get("Content-Type"))
		}
		if want := digest.FromString(c.content).String(); c.content != "" && header.Get("Docker-Content-Digest") != want {
			t.Errorf("%s %s: digest %q, want %s", c.method, c.path, header.Get("Docker-Content-Digest"), want)
		}
	}
	for _, path := range []string{
		"/v2/a/b/manifests/3", "/v2/b/manifests/1", "/v2/a/b/manifests/" + digest.FromString("blob").String(),
		"/v2/a/b/blobs/" + digest.FromString("none").String(), "/v2/a/b/blobs/sha256:..%2f..%2findex.json", "/", "/v2", "/v2/a/b", "/v2/manifests/1", "/v2/blobs/", "/v2/a/tags/list",
	} {
		if status, _, _ := request(t, http.MethodGet, server.URL+path); status != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, status)
		}
	}
}

func request(t *testing.T, method, url string) (status int, content string, header http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}
