package stream

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { testMain(m) }

// start runs a declared and sealed server in a folder of its own, stopped with the test.
func start(t testing.TB, change ...func(*Config)) *Server {
	t.Helper()
	s := startBare(t, change...)
	if err := s.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func startBare(t testing.TB, change ...func(*Config)) *Server {
	t.Helper()
	checkLeaks(t)
	cfg := Config{Name: "n1", Cluster: "test", Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func checkLeaks(t testing.TB) {
	if t, ok := t.(*testing.T); ok {
		before := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, append(engineLeaks, before)...) })
	}
}

// engineLeaks are what the engine leaves behind when it is stopped in the middle of an atomic
// batch: the store in which it staged that batch is not closed.
var engineLeaks = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func listening(c *Config) { c.Listen = "127.0.0.1:0" }

// publisher is closed with the test.
func publisher(t testing.TB, s *Server, stream string, opts Options) *Publisher {
	t.Helper()
	p, err := NewPublisher(t.Context(), s, stream, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}
