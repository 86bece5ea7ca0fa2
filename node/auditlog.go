package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// auditLog takes the AuditEvents of attempts whose Subscription wants them in a log
// (subscription-audit-event-destination, log): one JSON line each, in the file that is configured, else as an
// entry of the node's own log. The file is opened for each write, so that whoever moves it away by its age
// needs to tell nobody.
type auditLog struct {
	log  *slog.Logger
	path string // empty: the node's own log

	mu     sync.Mutex
	failed bool // the last write did not succeed, which was said
}

func newAuditLog(log *slog.Logger, path string) (*auditLog, error) {
	a := &auditLog{log: log, path: path}
	if path == "" {
		return a, nil
	}
	return a, a.append(nil) // what cannot be written is better known now
}

// append adds to the file.
func (a *auditLog) append(data []byte) error {
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// write adds lines, each a whole AuditEvent. What cannot be written is in the log of outcomes all the same,
// so deliveries go on; the operator is told once.
func (a *auditLog) write(lines []json.RawMessage) {
	if len(lines) == 0 {
		return
	}
	if a.path == "" {
		for _, line := range lines {
			a.log.Info("attempt", "audit", line)
		}
		return
	}
	var data []byte
	for _, line := range lines {
		data = append(append(data, line...), '\n')
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.append(data)
	if err != nil && !a.failed {
		a.log.Error("the audit log cannot be written; the attempts are still found by a search of AuditEvent, where Subscriptions have them there", "err", err)
	}
	a.failed = err != nil
}

// attemptsLogged writes those of a block that this process has made. It is called once they are folded.
func (n *Node) attemptsLogged(seq record.Sequence, b *record.OutcomeBlock) error {
	var lines []json.RawMessage
	err := n.gate.search.audits.logged(seq, b, n.subs.logs, func(line json.RawMessage) { lines = append(lines, line) })
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	n.auditLog.write(lines)
	return nil
}
