package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/stream"
)

// control is a small value of the whole cluster, kept as the newest record of
// fhir.control.{name} in EVENTS. Every node sees its changes in the order of the log; a change
// is written with the record it replaces as expectation, so none is lost to another.
type control[T any] struct {
	name string

	mu    sync.RWMutex
	value T
	seq   record.Sequence // 0 while there is no record
}

// controlLog is the part of the log that control values need.
type controlLog interface {
	newest(ctx context.Context, subject string) (stream.Message, error)
	append(ctx context.Context, subject string, data []byte, expect record.Sequence) (record.Sequence, error)
}

// get returns the value as of the last record seen. It is shared: callers change copies.
func (c *control[T]) get() (T, record.Sequence) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.value, c.seq
}

// load reads the newest record, when the node starts.
func (c *control[T]) load(ctx context.Context, log controlLog) error {
	m, err := log.newest(ctx, stream.ControlSubject(c.name))
	if errors.Is(err, stream.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read control record %s: %w", c.name, err)
	}
	return c.apply(m.Sequence, m.Data)
}

// apply takes over a record. Older ones than the value's are ignored.
func (c *control[T]) apply(seq record.Sequence, data []byte) error {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("control record %s at %d cannot be read: %w", c.name, seq, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq > c.seq {
		c.value, c.seq = v, seq
	}
	return nil
}

// change replaces the value by what f makes of the newest one, and tries again when somebody
// else was faster. An error of f ends it.
func (c *control[T]) change(ctx context.Context, log controlLog, f func(T) (T, error)) error {
	for {
		old, seq := c.get()
		v, err := f(old)
		if err != nil {
			return err
		}
		data := record.Encode(v)
		at, err := log.append(ctx, stream.ControlSubject(c.name), data, seq)
		if errors.Is(err, stream.ErrConflict) || errors.Is(err, stream.ErrBusy) {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
			if err := c.load(ctx, log); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("write control record %s: %w", c.name, err)
		}
		return c.apply(at, data)
	}
}

// settled reads a control record that is written once: the newest one, or, where there is none
// yet, the proposal. Of nodes that start together whoever is first wins, and the others read it.
func settled(ctx context.Context, log controlLog, name string, proposal []byte) (stream.Message, error) {
	subject := stream.ControlSubject(name)
	for {
		m, err := log.newest(ctx, subject)
		if err == nil || !errors.Is(err, stream.ErrNotFound) {
			return m, err
		}
		if _, err = log.append(ctx, subject, proposal, 0); err == nil {
			continue
		}
		// Another node's proposal is there, or on its way, or it is not known whose.
		if !errors.Is(err, stream.ErrConflict) && !errors.Is(err, stream.ErrBusy) && !errors.Is(err, stream.ErrUnknown) {
			return m, fmt.Errorf("propose control record %s: %w", name, err)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return m, err
		}
	}
}

// agreeOnVersion reads which version of FHIR the cluster speaks, or settles the configured one in a
// new cluster. It is called before any other record is settled: logs that have one of those and no
// version are of a release that knew R4 alone.
func agreeOnVersion(ctx context.Context, log controlLog, configured fhir.Version) (fhir.Version, error) {
	type settings struct {
		Version fhir.Version `json:"version"`
	}
	proposal := settings{configured}
	switch _, err := log.newest(ctx, stream.ControlSubject("partitions")); {
	case err == nil:
		proposal.Version = fhir.R4
	case !errors.Is(err, stream.ErrNotFound):
		return "", fmt.Errorf("read control record partitions: %w", err)
	}
	// Whoever else starts now writes its version before its partitions, so a table that appears in
	// between comes with a version that wins over this proposal.
	m, err := settled(ctx, log, "fhir", record.Encode(proposal))
	if err != nil {
		return "", err
	}
	var r settings
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return "", fmt.Errorf("record of the FHIR version at %d: %w", m.Sequence, err)
	}
	if r.Version != configured {
		return "", fmt.Errorf("this cluster speaks FHIR %s, and fhir.version is %s: the version of a cluster is for good; set it to %s, or begin a new cluster", r.Version, configured, r.Version)
	}
	return r.Version, nil
}

// level is how this release understands the logs: what matches what, and which number it gets. All
// nodes of a cluster go by the record of the log, whatever they could do.
const level = 1

// checkLevel refuses a cluster whose logs are to be understood as only a newer release can.
func checkLevel(ctx context.Context, log controlLog) error {
	type settings struct {
		Level int `json:"level"`
	}
	m, err := settled(ctx, log, "level", record.Encode(settings{level}))
	if err != nil {
		return err
	}
	var r settings
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return fmt.Errorf("level record at %d: %w", m.Sequence, err)
	}
	if r.Level > level {
		return fmt.Errorf("the cluster is at level %d and this release knows levels up to %d: run the newer release", r.Level, level)
	}
	return nil
}
