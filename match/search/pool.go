package search

import "sync"

// pool lets criteria share their conditions: a hundred thousand of them that ask for
// status=final need one condition, which also stays in the processor's cache. It remembers those
// used lately, in two halves of which the older one is forgotten when the newer is full, so
// what is unique to a criteria passes through it. A nil pool shares nothing.
type pool struct {
	mu           sync.Mutex
	newer, older map[pooled]*condition
}

// pooled says which conditions mean the same and were written in the same way. Definitions
// count because what a value stands for may depend on them.
type pooled struct {
	definitions *Definitions
	typ         *typeDef
	source      string
	text        string
}

// poolSize is how many conditions each half holds.
const poolSize = 4096

// share gives the condition of the pool that is equal to x, or x, which is then in it.
func (p *pool) share(d *Definitions, t *typeDef, x *condition) *condition {
	if p == nil {
		return x
	}
	key := pooled{d, t, x.source, x.text}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.newer[key]; known != nil {
		return known
	}
	if len(p.newer) >= poolSize || p.newer == nil {
		p.newer, p.older = make(map[pooled]*condition, poolSize), p.newer
	}
	if known := p.older[key]; known != nil {
		x = known
		key.source, key.text = x.source, x.text // so that the text of one criteria is kept, not of two
	}
	p.newer[key] = x
	return x
}
