package stream

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// levelEngine is the level at which the engine's debug lines appear: below Debug, since they
// tell of every connection.
const levelEngine = slog.LevelDebug - 4

// engineLog carries the server's lines to slog. The server's trace lines would show payloads,
// so they are never switched on.
type engineLog struct {
	log *slog.Logger

	mu    sync.Mutex
	told  map[string]bool // reasons why routes were refused
	fatal error           // first fatal line
	died  chan struct{}   // closed with fatal
}

func newEngineLog(log *slog.Logger) *engineLog {
	return &engineLog{log: log, died: make(chan struct{})}
}

func (l *engineLog) line(level slog.Level, format string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "nats server", "says", fmt.Sprintf(format, v...))
	}
}

// Noticef is what the server says about its own start and stop.
func (l *engineLog) Noticef(format string, v ...any) { l.line(slog.LevelDebug, format, v) }

// Warnf drops the advice against large payloads, which a FHIR resource needs.
func (l *engineLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Maximum payloads over") {
		return
	}
	text := fmt.Sprintf(format, v...)
	l.line(levelOf(slog.LevelWarn, text), "%s", []any{text})
}

// levelOf lowers lines about the usual life of a cluster: routes that are not there yet or break
// are told once by who watches them, and the rest needs nobody.
func levelOf(level slog.Level, text string) slog.Level {
	for _, usual := range []string{
		"Error trying to connect to route", "Waiting for routing to be established", "Metalayer blocking snapshot",
		"JetStream has not established contact", "JetStream cluster no metadata leader",
	} {
		if strings.HasPrefix(text, usual) {
			return slog.LevelDebug
		}
	}
	if strings.HasPrefix(text, "JetStream stream") && strings.Contains(text, "is not current") {
		return slog.LevelDebug // each time that it is asked for, while a node starts
	}
	return level
}

// Errorf is a failure that the server lives with. What a client did wrong, such as a subject
// that it may not use, calls for nobody: it is told about itself.
func (l *engineLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	switch {
	case strings.Contains(text, " - cid:"):
		l.line(slog.LevelInfo, "%s", []any{text})
	case strings.Contains(text, " - rid:"):
		if _, why, ok := strings.Cut(text, "TLS route handshake error: "); ok && l.isNews(why) {
			l.log.Warn("a route was refused for its certificate: see cluster.tls on both sides", "why", why)
			return
		}
		l.line(slog.LevelDebug, "%s", []any{text})
	default:
		l.line(levelOf(slog.LevelError, text), "%s", []any{text})
	}
}

// isNews reports whether a reason was not told before; a route is tried again every second. A
// connection that was merely cut is no reason.
func (l *engineLog) isNews(why string) bool {
	for _, cut := range []string{"EOF", "reset", "timeout", "closed"} {
		if strings.Contains(why, cut) {
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told[why] || len(l.told) >= 16 {
		return false
	}
	if l.told == nil {
		l.told = map[string]bool{}
	}
	l.told[why] = true
	return true
}

// Fatalf keeps the reason for Start to return. The server's own logger would end the process.
func (l *engineLog) Fatalf(format string, v ...any) {
	l.line(slog.LevelError, format, v)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = fmt.Errorf(format, v...)
		close(l.died)
	}
}

// Debugf is the server's own debugging.
func (l *engineLog) Debugf(format string, v ...any) { l.line(levelEngine, format, v) }

// Tracef says nothing: protocol traces hold payloads.
func (l *engineLog) Tracef(string, ...any) {}

func (l *engineLog) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
