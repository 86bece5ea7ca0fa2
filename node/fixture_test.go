package node

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

var update = flag.Bool("update", false, "make testdata/format1.tar.gz anew; it must be from the first release of its format")

// fixture is a data folder of format 1: resources that were created, changed and deleted, a
// Subscription that was served, one whose notification died, a token's record, and a restart.
const fixture = "testdata/format1.tar.gz"

// makeFixture writes the fixture by what this release does.
func makeFixture(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Delivery.Retry.Attempts = 1
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/served", subscriptionTo("served", "Patient?", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Subscription/failing", subscriptionTo("failing", "Patient?active=true", endpoint(t, 500)), nil)
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","active":true}`, nil)
	r.do(200, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","active":false}`, nil)
	r.do(201, "PUT", "/fhir/Observation/o1", `{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p1"}}`, nil)
	r.do(201, "PUT", "/fhir/Patient/p2", `{"resourceType":"Patient","id":"p2"}`, nil)
	r.do(204, "DELETE", "/fhir/Patient/p2", "", nil)
	r.do(200, "POST", "/admin/api/v1/subscriptions/failing/pause", "", nil)
	settled := func(s map[string]any) bool { return s["pending"] == 0.0 && s["dead"] == 1.0 }
	r.await("the end of all attempts", "/admin/api/v1/status", settled)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg)
	again.do(200, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","gender":"other"}`, nil)
	again.await("the end of all attempts", "/admin/api/v1/status", settled)
	if err := again.wait(); err != nil {
		t.Fatal(err)
	}
	pack(t, dir, fixture)
}

// What the first release of a format wrote is read by every later one: the logs as they stand, and
// what was made of them by making it again where this release makes more of them.
func TestADataFolderOfFormat1IsRead(t *testing.T) {
	if *update {
		makeFixture(t)
	}
	dir := t.TempDir()
	unpack(t, fixture, dir)
	check := func(r *running) (store.Vector, map[string][32]byte) {
		t.Helper()
		var p struct{ Gender string }
		r.do(200, "GET", "/fhir/Patient/p1", "", &p)
		if p.Gender != "other" {
			t.Errorf("Patient/p1 is %+v", p)
		}
		r.do(410, "GET", "/fhir/Patient/p2", "", nil)
		var st api.Status
		r.do(200, "GET", "/admin/api/v1/status", "", &st)
		if st.Dead != 1 || st.Pending != 0 || st.Subscriptions["active"] != 2 || st.SetAside != 0 {
			t.Errorf("status is %+v", st)
		}
		var as []api.Attempt
		r.do(200, "GET", "/admin/api/v1/attempts?subscription=served", "", &as)
		for _, a := range as {
			if a.Outcome != record.Accepted {
				t.Errorf("attempt %+v", a)
			}
		}
		if len(as) != 4 {
			t.Errorf("%d attempts for served, want 4", len(as))
		}
		var sub api.SubscriptionStatus
		r.do(200, "GET", "/admin/api/v1/subscriptions/failing", "", &sub)
		if !sub.Paused || sub.Events != 1 || sub.Dead != 1 {
			t.Errorf("failing is %+v", sub)
		}
		h, err := r.store.Hash(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h.Vector, h.Buckets
	}
	r := runNode(t, testConfig(dir))
	at, kept := check(r)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.logs.String(), "projection of an older release is made again from the logs") {
		t.Error("the projection of format 1, which has no references, was taken as it was")
	}
	again := runNode(t, testConfig(dir))
	if _, same := check(again); !maps.Equal(same, kept) {
		delete(same, ofPositions) // control records of a start move EVENTS on
		for bucket, sum := range same {
			if kept[bucket] != sum {
				t.Errorf("bucket %s changes with a restart", bucket)
			}
		}
	}
	if strings.Contains(again.logs.String(), "made again") {
		t.Error("the projection is made again at each start")
	}
	if err := again.wait(); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(dir)
	cfg.Run.Rebuild = true
	rebuilt := runNode(t, cfg)
	_, made := check(rebuilt)
	for bucket, sum := range kept {
		if made[bucket] != sum && bucket != ofPositions { // control records of a start move EVENTS on
			t.Errorf("bucket %s of the projection at %+v is not what its logs give", bucket, at)
		}
	}
	// And it can be written on.
	rebuilt.do(201, "PUT", "/fhir/Patient/p3", `{"resourceType":"Patient","id":"p3"}`, nil)
}

// pack writes a folder into an archive, without what a process left for itself.
func pack(t *testing.T, dir, path string) {
	t.Helper()
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(zipped)
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err = archive.Write(text)
		return err
	})
	if err := errors.Join(err, archive.Close(), zipped.Close(), os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, path, dir string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
