package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// fakeNode is a member that does as it is told.
type fakeNode struct {
	ready    chan struct{}
	draining chan struct{} // closed when it was told to stop
	drained  chan struct{} // it stops once this is closed
	err      error         // it fails at once with this
	reloads  chan struct{} // gets something at each Reload
}

func newFakeNode() *fakeNode {
	return &fakeNode{ready: make(chan struct{}), draining: make(chan struct{}), drained: make(chan struct{}), reloads: make(chan struct{}, 8)}
}

func (f *fakeNode) Run(ctx context.Context) error {
	if f.err != nil {
		return f.err
	}
	close(f.ready)
	<-ctx.Done()
	close(f.draining)
	<-f.drained
	return nil
}

func (f *fakeNode) Ready() <-chan struct{} { return f.ready }
func (f *fakeNode) Addr() string           { return "127.0.0.1:1" }
func (f *fakeNode) NATSAddr() string       { return "127.0.0.1:2" }
func (f *fakeNode) Name() string           { return "n1" }

func (f *fakeNode) Reloads(func() (config.Config, error), *slog.LevelVar) {}

func (f *fakeNode) Reload(context.Context) (api.Reloaded, error) {
	f.reloads <- struct{}{}
	return api.Reloaded{}, errors.New("a key is wrong")
}

// serveFake runs a fake node; the channel gives what runNode returned, and stdout is complete then.
func serveFake(ctx context.Context, f *fakeNode) (<-chan error, *bytes.Buffer) {
	var out bytes.Buffer
	app := &cli.App{Writer: &out, ErrWriter: io.Discard}
	c := &call{Context: cli.NewContext(app, nil, &cli.Context{Context: ctx})}
	done := make(chan error, 1)
	go func() { done <- runNode(ctx, c, f, config.Default(), slog.New(slog.DiscardHandler)) }()
	return done, &out
}

func TestServeSaysReadyAndDrains(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	f := newFakeNode()
	done, out := serveFake(ctx, f)
	<-f.ready
	stop()
	<-f.draining
	close(f.drained)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := out.String(); got != "ready http=http://127.0.0.1:1 nats=nats://127.0.0.1:2 node=n1 cluster=carillon\n" {
		t.Errorf("printed %q", got)
	}
}

// SIGHUP reads the configuration again, and one that is wrong does not end the node.
func TestServeReloadsAtSIGHUP(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	f := newFakeNode()
	close(f.drained)
	// Before the node listens for it the signal would end this process.
	mine := make(chan os.Signal, 1)
	signal.Notify(mine, syscall.SIGHUP)
	defer signal.Stop(mine)
	done, _ := serveFake(ctx, f)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for reloads := 0; reloads < 2; {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.reloads:
			reloads++
		case err := <-done:
			t.Fatal(err)
		case <-again.C:
		}
	}
	stop()
	for open := true; open; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			open = false
		case <-f.reloads:
		}
	}
}

func TestServeEndsAtOnceWithTheSecondSignal(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	f := newFakeNode()
	done, _ := serveFake(ctx, f)
	<-f.ready
	stop()
	<-f.draining
	defer close(f.drained)
	// The first signals may come before they are listened for; this process survives them,
	// since the test listens too.
	mine := make(chan os.Signal, 1)
	signal.Notify(mine, syscall.SIGTERM)
	defer signal.Stop(mine)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if !errors.Is(err, errKilled) || exitCode(err) != exitFailed {
				t.Errorf("got %v", err)
			}
			return
		case <-again.C:
		}
	}
}

func TestServeFailsBeforeItIsReady(t *testing.T) {
	f := newFakeNode()
	f.err = errors.New("data folder x is in use")
	done, out := serveFake(t.Context(), f)
	if err := <-done; !errors.Is(err, f.err) {
		t.Errorf("got %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("printed %q", out)
	}
}

func TestFlagsOfServeWinOverTheFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("c.yaml", []byte("node: {http: '127.0.0.1:1', data: there}\nobservability: {log: {level: warn}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CARILLON_NODE_DATA", "elsewhere")
	var got config.Config
	app := newApp()
	app.Commands = []*cli.Command{serveCommand()}
	app.Commands[0].Action = action(0, 0, func(c *call) (err error) {
		got, err = serveConfig(c)
		return err
	})
	args, err := arrange(app, strings.Fields("serve --config c.yaml --http 127.0.0.1:2 --dev --node n7 --log-level debug --rebuild"))
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Run(append([]string{"carillon"}, args...)); err != nil {
		t.Fatal(err)
	}
	if got.Node.HTTP != "127.0.0.1:2" || got.Node.Data != "elsewhere" || got.Observability.Log.Level != "debug" {
		t.Errorf("%+v", got)
	}
	if want := (config.Run{Node: "n7", Dev: true, Rebuild: true}); got.Run != want {
		t.Errorf("%+v", got.Run)
	}
	if e := got.Delivery.Egress; !e.AllowHTTP || !e.AllowPrivate {
		t.Errorf("--dev allows no endpoint on this machine: %+v", e)
	}
}
