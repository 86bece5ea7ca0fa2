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
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process of this binary, so that what it uses is its own. Once it has ended it may be
// started again.
type child struct {
	args  []string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string   // what it prints, closed at its end
	logs  *tailBuffer   // the end of what it logs
	done  chan struct{} // closed when the process has ended
}

// unread bounds the lines of a child that nobody has read: further ones are dropped.
const unread = 16

func (p *child) start() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this binary: %w", err)
	}
	p.cmd, p.logs = exec.Command(self, p.args...), &tailBuffer{}
	p.lines, p.done = make(chan string, unread), make(chan struct{})
	p.cmd.Stderr = p.logs
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	// A signal at the terminal goes to its whole group; the process is stopped by us alone.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, p.stdin.Close(), stdout.Close())
	}
	go p.read(stdout)
	return nil
}

// read hands on what the process prints until it ends.
func (p *child) read(stdout io.Reader) {
	defer close(p.done)
	scan := bufio.NewScanner(stdout)
	for scan.Scan() {
		select {
		case p.lines <- scan.Text():
		default:
		}
	}
	_ = p.cmd.Wait() // how it ended tells less than what it logged, which is whole from here on
	close(p.lines)
}

// line is the next line that the process prints within a time.
func (p *child) line(ctx context.Context, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "", fmt.Errorf("carillon %s ended, %s: %s", p.args[0], p.cmd.ProcessState, first(p.logs.String(), "it logged nothing"))
		}
		return line, nil
	case <-ctx.Done():
		return "", fmt.Errorf("carillon %s printed nothing for %s: %w: %s", p.args[0], limit, ctx.Err(), p.logs)
	}
}

// end sends a signal and waits until the process has ended; after patience it is killed.
func (p *child) end(sig syscall.Signal, patience time.Duration) {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
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

// String is the end of what was written.
func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// field finds the value of name=value on a line.
func field(line, name string) string {
	for f := range strings.FieldsSeq(line) {
		if value, is := strings.CutPrefix(f, name+"="); is {
			return value
		}
	}
	return ""
}
