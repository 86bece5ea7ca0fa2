package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkMatch is the whole command over the sample resources, on one core with GOMAXPROCS=1.
func BenchmarkMatch(b *testing.B) {
	sample, err := os.ReadFile(filepath.Join("..", "..", "e2e", "testdata", "sample-r4.ndjson"))
	if err != nil {
		b.Fatal(err)
	}
	const copies = 100
	name := filepath.Join(b.TempDir(), "resources.ndjson")
	if err := os.WriteFile(name, bytes.Repeat(append(bytes.TrimSpace(sample), '\n'), copies), 0o600); err != nil {
		b.Fatal(err)
	}
	lines := copies * (bytes.Count(bytes.TrimSpace(sample), []byte("\n")) + 1)
	began := time.Now()
	for b.Loop() {
		if code := run(context.Background(), []string{"match", "--quiet", "Observation?code=http://loinc.org|8867-4&value-quantity=gt80", name}, nil, io.Discard, os.Stderr); code != exitDone {
			b.Fatalf("exit code %d", code)
		}
	}
	b.ReportMetric(float64(lines*b.N)/time.Since(began).Seconds(), "resources/s")
	b.SetBytes(int64(copies * len(sample)))
}
