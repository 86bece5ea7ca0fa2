package api

import "sync"

// pool runs the writes of one request side by side, so that they share the log's synced
// appends, while those of one resource keep their order. It is bounded in number and bytes:
// when it is full, whoever reads the request waits, and with it the sender.
type pool struct {
	mu       sync.Mutex
	room     sync.Cond
	running  int
	bytes    int
	maxRun   int
	maxBytes int
	last     map[string]chan struct{} // by resource: closed when its newest task is done
	tasks    sync.WaitGroup
}

func newPool(maxRun, maxBytes int) *pool {
	p := &pool{maxRun: maxRun, maxBytes: maxBytes, last: map[string]chan struct{}{}}
	p.room.L = &p.mu
	return p
}

// do runs f as soon as there is room and every earlier task of the same resource is done. An
// empty name has no order. A task that waits for an earlier one cannot block it: the earlier
// one has its place already.
func (p *pool) do(resource string, size int, f func()) {
	p.mu.Lock()
	for p.running > 0 && (p.running >= p.maxRun || p.bytes+size > p.maxBytes) {
		p.room.Wait()
	}
	p.running++
	p.bytes += size
	before, done := p.last[resource], make(chan struct{})
	if resource != "" {
		p.last[resource] = done
	}
	p.mu.Unlock()

	p.tasks.Go(func() {
		defer p.done(resource, size, done)
		if before != nil {
			<-before
		}
		f()
	})
}

func (p *pool) done(resource string, size int, done chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	p.bytes -= size
	if p.last[resource] == done {
		delete(p.last, resource)
	}
	close(done)
	p.room.Signal()
}

// wait returns when all tasks are done.
func (p *pool) wait() { p.tasks.Wait() }
