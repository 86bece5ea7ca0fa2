package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Kind says what a record of the history tells.
type Kind string

// The kinds. A write is Asked, then Acknowledged, Refused or Unknown: it may or may not have
// been made. Arrived is a notification at an endpoint with the answer it got. Begun and Ended
// are faults. Dead, Numbered and Read are what the nodes say after the run.
const (
	Asked        Kind = "asked"
	Acknowledged Kind = "acknowledged"
	Refused      Kind = "refused"
	Unknown      Kind = "unknown"
	Arrived      Kind = "arrived"
	Begun        Kind = "begun"
	Ended        Kind = "ended"
	Impossible   Kind = "impossible" // a fault that cannot be made here
	Note         Kind = "note"
	Dead         Kind = "dead"     // a dead letter, as listed
	Numbered     Kind = "numbered" // an event of a Subscription, as listed
	Read         Kind = "read"     // a version read back from a node
	Finding      Kind = "finding"  // something wrong that is seen on the way
	Changing     Kind = "changing" // a Subscription is asked to have its other criteria
	Changed      Kind = "changed"  // that was acknowledged
)

// Record is one line of the history. Which fields are set depends on the kind.
type Record struct {
	At   time.Duration `json:"at"` // since the run began, monotonic
	Kind Kind          `json:"kind"`
	Node string        `json:"node,omitempty"`
	Text string        `json:"text,omitempty"` // of a fault its name, else free

	// Of a write: which resource, its place among the writes of that resource (it stands in the
	// body too), and what was asked.
	Resource    string          `json:"resource,omitempty"` // Type/id
	Seq         int             `json:"seq,omitempty"`
	Interaction string          `json:"interaction,omitempty"` // write or delete
	Body        json.RawMessage `json:"body,omitempty"`
	Sum         string          `json:"sum,omitempty"`     // of the content without meta
	Version     uint64          `json:"version,omitempty"` // as ETag, meta.versionId or PubAck say it
	Status      int             `json:"status,omitempty"`

	// Of a notification.
	Subscription string        `json:"subscription,omitempty"`
	WebhookID    string        `json:"webhookId,omitempty"`
	Number       uint64        `json:"number,omitempty"`
	Attempt      int           `json:"attempt,omitempty"`
	Answered     time.Duration `json:"answered,omitempty"` // when; Status is what
	Variant      int           `json:"variant,omitempty"`  // which criteria a Subscription is changed to
	// Faults counts, on Begun, the nodes that may leave work unrecorded by it.
	Faults int `json:"faults,omitempty"`
}

// History is append-only. One goroutine writes it.
type History struct {
	Path  string
	start time.Time
	in    chan Record
	done  chan struct{}

	mu  sync.Mutex // guards all
	all []Record

	err error // valid after done
}

// NewHistory begins a history in a file. Close ends it.
func NewHistory(path string) (*History, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	h := &History{Path: path, start: time.Now(), in: make(chan Record, 1024), done: make(chan struct{})}
	go h.write(f)
	return h, nil
}

func (h *History) write(f *os.File) {
	defer close(h.done)
	w := bufio.NewWriterSize(f, 1<<16)
	enc := json.NewEncoder(w)
	for r := range h.in {
		h.mu.Lock()
		h.all = append(h.all, r)
		h.mu.Unlock()
		if err := enc.Encode(r); err != nil && h.err == nil {
			h.err = err
		}
	}
	h.err = errors.Join(h.err, w.Flush(), f.Close())
}

// Now is the time on the history's clock.
func (h *History) Now() time.Duration { return time.Since(h.start) }

// Add appends a record with the present time, unless it has one. It waits when the writer is behind.
func (h *History) Add(r Record) {
	if r.At == 0 {
		r.At = h.Now()
	}
	h.in <- r
}

// Notef appends a note.
func (h *History) Notef(format string, args ...any) {
	h.Add(Record{Kind: Note, Text: fmt.Sprintf(format, args...)})
}

// Since returns the records from the nth on.
func (h *History) Since(n int) []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all[n:len(h.all):len(h.all)]
}

// Close waits until all is written. Nothing may be added any more.
func (h *History) Close() error {
	close(h.in)
	<-h.done
	return h.err
}

// LoadHistory reads a history back.
func LoadHistory(path string) ([]Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Record
	for d := json.NewDecoder(bufio.NewReader(f)); ; {
		var r Record
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: record %d: %w", path, len(all)+1, err)
		}
		all = append(all, r)
	}
}
