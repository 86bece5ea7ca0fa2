package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// lineWriter hands out what is written to it, line by line.
type lineWriter struct {
	mu    sync.Mutex
	rest  bytes.Buffer
	lines chan string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest.Write(p)
	for {
		line, err := w.rest.ReadString('\n')
		if errors.Is(err, io.EOF) {
			w.rest.WriteString(line)
			return len(p), nil
		}
		w.lines <- line
	}
}

func natsServer(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS server is not ready")
	}
	return s
}

func TestTailPrintsMessages(t *testing.T) {
	s := natsServer(t, &server.Options{})
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	out := &lineWriter{lines: make(chan string, 1000)}
	ctx, stop := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"tail", "-o", "json", "--nats", s.ClientURL()}, strings.NewReader(""), out, io.Discard)
	}()
	// Messages sent before tail has subscribed are not seen by anyone; send until one is.
	var line string
	for line == "" {
		m := nats.NewMsg("fhir.dead.a1")
		m.Header.Set("Dead-Reason", "timeout")
		m.Data = []byte(`{"a":1.0}`)
		if err := errors.Join(nc.PublishMsg(m), nc.Flush()); err != nil {
			t.Fatal(err)
		}
		select {
		case line = <-out.lines:
		case <-time.After(10 * time.Millisecond):
		}
	}
	var got struct {
		Subject string
		Header  map[string][]string
		Body    json.RawMessage
	}
	if err := json.Unmarshal([]byte(line), &got); err != nil || got.Subject != "fhir.dead.a1" || string(got.Body) != `{"a":1.0}` || got.Header["Dead-Reason"][0] != "timeout" {
		t.Errorf("printed %q, %v", line, err)
	}
	stop()
	if c := <-code; c != 0 {
		t.Errorf("code %d", c)
	}
}

func TestTailIsToldWhatItMayNotRead(t *testing.T) {
	s := natsServer(t, &server.Options{Users: []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
		Subscribe: &server.SubjectPermission{Allow: []string{"fhir.dead.>"}},
	}}}})
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	url := strings.Replace(s.ClientURL(), "nats://", "nats://u:p@", 1)
	code, _, stderr := carillon(t, "", "tail", "fhir.match.>", "--nats", url)
	if code != exitForbidden || !strings.Contains(stderr, "fhir.match.>") || strings.Contains(stderr, "u:p") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	code, _, stderr = carillon(t, "", "tail", "--nats", strings.Replace(url, "u:p", "u:wrong", 1))
	if code != exitForbidden || strings.Contains(stderr, "wrong") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}
