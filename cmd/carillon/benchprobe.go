package main

import (
	"os"
	"path/filepath"
	"time"
)

// probe measures what an fsync costs while something else uses the same disk.
type probe struct {
	quit  chan struct{}
	done  chan struct{}
	times []float64
	err   error
}

// startProbe begins to write 4 KiB and sync them twenty times a second. Without a folder it
// measures nothing.
func startProbe(dir string) *probe {
	p := &probe{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if dir != "" {
			p.err = p.run(dir)
		}
	}()
	return p
}

func (p *probe) run(dir string) error {
	f, err := os.Create(filepath.Join(dir, "fsync-probe"))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	block := make([]byte, 4096)
	for {
		select {
		case <-p.quit:
			return nil
		case <-tick.C:
		}
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		p.times = append(p.times, milliseconds(time.Since(began)))
	}
}

func (p *probe) stop() ([]float64, error) {
	close(p.quit)
	<-p.done
	return p.times, p.err
}
