package stream

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestTwoServersOnOneAddressGiveOneClearError(t *testing.T) {
	s := start(t, listening)
	_, err := Start(t.Context(), Config{Name: "n2", Dir: t.TempDir(), Listen: s.Addr()})
	if err == nil || !strings.Contains(err.Error(), s.Addr()+" is in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("second start says %v", err)
	}
}

func TestConfigurationsThatCannotRunAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, says string
		cfg        Config
	}{
		{"no name", "node name", Config{Dir: dir}},
		{"name with a dot", "node name", Config{Name: "a.b", Dir: dir}},
		{"no folder", "data folder", Config{Name: "n"}},
		{"folder is a file", "data folder", Config{Name: "n", Dir: file}},
		{"no port", "listen address", Config{Name: "n", Dir: dir, Listen: "127.0.0.1"}},
		{"port out of range", "not a port", Config{Name: "n", Dir: dir, Listen: "127.0.0.1:70000"}},
		{"public address", "only loopback", Config{Name: "n", Dir: dir, Listen: "0.0.0.0:0"}},
		{"any address", "only loopback", Config{Name: "n", Dir: dir, Listen: ":4222"}},
		{"replicas", "single node", Config{Name: "n", Dir: dir, Replicas: 3}},
		{"payload", "largest message", Config{Name: "n", Dir: dir, MaxPayload: 1 << 30}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Start(t.Context(), tt.cfg)
			if err == nil {
				s.Close(t.Context())
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q does not say %q", err, tt.says)
			}
		})
	}
}

func TestAFolderNameIsTakenAsItIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `da"ta $X ü`)
	s := start(t, func(c *Config) { c.Dir = dir })
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder has mode %v, %v", fi.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "nats", "jetstream")); err != nil {
		t.Error(err)
	}
}

func TestWithoutAListenerNobodyCanConnect(t *testing.T) {
	s := start(t)
	if s.Addr() != "" {
		t.Errorf("listens on %s", s.Addr())
	}
}

func TestRestartAfterJetStreamIsLostTakesWritesAgain(t *testing.T) {
	s := start(t, listening)
	p := publisher(t, s, Events, Options{})
	if _, err := p.Publish(t.Context(), ingest("before", []byte("{}"))); err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	if err := s.running().DisableJetStream(); err != nil { // as the engine does after a failure of the disk
		t.Fatal(err)
	}
	if err := s.Healthy(); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("healthy without JetStream: %v", err)
	}
	answer := make(chan error, 1)
	if err := p.Enqueue(t.Context(), ingest("meanwhile", []byte("{}")), func(_ Ack, err error) { answer <- err }); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("write that waited for the restart: %v", err)
	}
	if s.Addr() != addr {
		t.Errorf("address changed from %s to %s", addr, s.Addr())
	}
	if _, err := s.LastFor(t.Context(), Events, EventSubject(fhir.Key{Type: "Observation", ID: "before"})); err != nil {
		t.Error(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestAClosedServerSaysSo(t *testing.T) {
	s := start(t)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if err := s.Healthy(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("healthy: %v", err)
	}
	if _, err := s.Seal(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("seal: %v", err)
	}
	if _, err := s.Get(t.Context(), Events, 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if err := s.Restart(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("restart: %v", err)
	}
}

func TestTheEnginesFatalLineIsAnErrorAndNotAnExit(t *testing.T) {
	l := newEngineLog(slog.New(slog.DiscardHandler))
	l.Fatalf("cannot %s", "listen")
	l.Fatalf("second")
	<-l.died
	if err := l.err(); err == nil || err.Error() != "cannot listen" {
		t.Errorf("first fatal line is %v", err)
	}
}

func TestDiskFreeReadsTheFileSystemOfTheFolder(t *testing.T) {
	free, total, err := DiskFree(t.TempDir())
	if err != nil || free == 0 || free > total {
		t.Errorf("free %d of %d, %v", free, total, err)
	}
	if _, _, err := DiskFree(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("free space of a folder that is not there")
	}
	if Reserve(1<<30) != 256<<20 || Reserve(1<<40) != (1<<40)/50 {
		t.Errorf("reserve of 1 GiB is %d, of 1 TiB %d", Reserve(1<<30), Reserve(1<<40))
	}
}

func TestTheServerRunsAsPromised(t *testing.T) {
	s := start(t, listening)
	o, err := s.options()
	if err != nil {
		t.Fatal(err)
	}
	if !o.SyncAlways || !o.JetStream || !o.NoSigs || !o.NoLog {
		t.Errorf("sync always %v, JetStream %v, no signals %v, no log %v", o.SyncAlways, o.JetStream, o.NoSigs, o.NoLog)
	}
	if o.HTTPPort != 0 || o.HTTPSPort != 0 || o.MQTT.Port != 0 || o.LeafNode.Port != 0 || o.Websocket.Port != 0 || o.Cluster.Port != 0 || o.Gateway.Port != 0 {
		t.Error("another listener than that of clients is open")
	}
	if o.JetStreamMaxStore <= 0 || o.JetStreamMaxMemory != defaultMaxMemory || int(o.MaxPayload) != s.MaxPayload() {
		t.Errorf("limits: store %d, memory %d, payload %d", o.JetStreamMaxStore, o.JetStreamMaxMemory, o.MaxPayload)
	}
}
