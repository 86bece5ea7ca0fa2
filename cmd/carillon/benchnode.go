package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// childNode is a node in a process of its own, so that what it uses is its own.
type childNode struct {
	dir  string // holds the data folder; removed by close
	url  string
	cmd  *exec.Cmd
	logs *tailBuffer
	done chan struct{} // closed when the process has ended
	err  error
}

// startChild runs this binary's serve on free ports and waits until it is ready. The data lie
// below the current folder, since the system's folder for temporary files is often in memory,
// where an fsync costs nothing.
func startChild(ctx context.Context, configFile string) (*childNode, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	dir, err := os.MkdirTemp(".", "carillon-bench-")
	if err != nil {
		return nil, err
	}
	args := []string{"serve", "--dev", "--data", filepath.Join(dir, "data"), "--http", "127.0.0.1:0", "--nats", "127.0.0.1:0", "--log-level", "warn", "--log-format", "json"}
	if configFile != "" {
		args = append(args, "--config", configFile)
	}
	n := &childNode{dir: dir, cmd: exec.Command(self, args...), logs: &tailBuffer{}, done: make(chan struct{})}
	n.cmd.Stderr = n.logs
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	// A signal at the terminal goes to its whole group; the node is stopped by us alone.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	ready := make(chan string, 1)
	go func() {
		defer close(n.done)
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line
		_, _ = io.Copy(io.Discard, stdout)
		n.err = n.cmd.Wait()
	}()
	return n, n.awaitReady(ctx, ready)
}

func (n *childNode) awaitReady(ctx context.Context, ready <-chan string) error {
	var line string
	select {
	case line = <-ready:
	case <-time.After(time.Minute):
	case <-ctx.Done():
	}
	for field := range strings.FieldsSeq(line) {
		if url, ok := strings.CutPrefix(field, "http="); ok {
			n.url = url
			return nil
		}
	}
	err := n.close()
	if ctx.Err() != nil {
		return exit(exitFailed, "interrupted")
	}
	return errors.Join(fmt.Errorf("the node did not start: %s", first(n.logs.String(), "it printed no ready line")), err)
}

// close stops the node and removes its data.
func (n *childNode) close() error {
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-n.done:
	case <-time.After(30 * time.Second):
		_ = n.cmd.Process.Kill()
		<-n.done
	}
	return os.RemoveAll(n.dir)
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

// Write never fails.
func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - 4096; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
