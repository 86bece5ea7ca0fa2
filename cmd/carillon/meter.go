package main

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
)

// meter shows how far long work is: a bar with rate and remaining time on a terminal, a plain
// line every few seconds otherwise, nothing with --quiet.
type meter interface {
	set(done int64, remark string) // done is in the unit of the total
	close()
}

// newMeter begins to show work of a total in bytes; 0 if that is unknown.
func (c *call) newMeter(what string, total int64) meter {
	switch {
	case c.Bool("quiet"):
		return silence{}
	case isTerminal(c.App.ErrWriter):
		return newBar(c.App.ErrWriter, what, total, progress.UnitsBytes)
	}
	return &plainMeter{w: c.App.ErrWriter, what: what, last: time.Now()}
}

type silence struct{}

func (silence) set(int64, string) {}
func (silence) close()            {}

// plainMeter prints a line every five seconds, for logs.
type plainMeter struct {
	w    io.Writer
	what string
	last time.Time
}

func (p *plainMeter) set(_ int64, remark string) {
	if time.Since(p.last) >= 5*time.Second {
		p.last = time.Now()
		fmt.Fprintf(p.w, "%s: %s\n", p.what, remark)
	}
}

func (p *plainMeter) close() {}

// bar draws with go-pretty. Its writer renders in a goroutine that close waits for.
type bar struct {
	writer   progress.Writer
	tracker  *progress.Tracker
	what     string
	rendered chan struct{}
}

func newBar(w io.Writer, what string, total int64, units progress.Units) *bar {
	b := &bar{writer: progress.NewWriter(), what: what, rendered: make(chan struct{})}
	b.writer.SetOutputWriter(w)
	b.writer.SetAutoStop(false)
	b.writer.SetStyle(progress.StyleDefault)
	v := &b.writer.Style().Visibility
	v.ETA, v.Speed, v.Percentage, v.TrackerOverall = total > 0, true, total > 0, false
	b.writer.SetUpdateFrequency(200 * time.Millisecond)
	b.tracker = &progress.Tracker{Message: what, Total: total, Units: units, AutoStopDisabled: true}
	b.writer.AppendTracker(b.tracker)
	go func() {
		defer close(b.rendered)
		b.writer.Render()
	}()
	return b
}

func (b *bar) set(done int64, remark string) {
	b.tracker.UpdateMessage(b.what + ": " + remark)
	b.tracker.SetValue(done)
}

// close may be called again.
func (b *bar) close() {
	select {
	case <-b.rendered:
		return
	default:
	}
	b.tracker.MarkAsDone()
	// Stop is lost on a writer that has not begun to render, and then Render would never end.
	for !b.writer.IsRenderInProgress() {
		select {
		case <-b.rendered:
			return
		case <-time.After(time.Millisecond):
		}
	}
	b.writer.Stop()
	<-b.rendered
}
