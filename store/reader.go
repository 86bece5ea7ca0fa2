package store

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// reader looks through the layers, newest first: what was folded a moment ago, what is on
// its way into the file, the file.
//
// Its error is sticky: after a failure every read finds nothing, and whoever uses a reader
// asks err before anything leaves, so that "not found" is never said of a damaged row.
type reader struct {
	over []*overlay
	room [3]*overlay // over's
	file *file
	sn   *snapshot // begun when the overlays do not answer; one for the whole view
	err  error
}

// done ends the reader's transaction.
func (r *reader) done() {
	if r.sn != nil {
		r.file.end(r.sn)
		r.sn = nil
	}
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// malformed notes a row that cannot be what was written there.
func (r *reader) malformed(b bucket, err error) {
	r.fail(r.file.damaged(fmt.Errorf("bucket %s: %w", b, err)))
}

// begin opens the file's transaction if there is none.
func (r *reader) begin() bool {
	if r.err != nil {
		return false
	}
	if r.sn == nil {
		sn, err := r.file.begin()
		if err != nil {
			r.fail(err)
			return false
		}
		r.sn = sn
	}
	return true
}

// get finds a row. The value must not be changed.
func (r *reader) get(b bucket, key string) ([]byte, bool) {
	if r.err != nil {
		return nil, false
	}
	for _, o := range r.over {
		if e := o.lists[b].get(key); e != nil {
			return e.val, !e.gone
		}
	}
	if !r.begin() {
		return nil, false
	}
	val, ok, err := r.file.get(r.sn, b, key)
	if err != nil {
		r.fail(err)
		return nil, false
	}
	return val, ok
}

func (r *reader) has(b bucket, key string) bool {
	_, ok := r.get(b, key)
	return ok
}

// scan shows the rows with from <= key < to in rising order until fn says false. An empty to
// is no bound.
func (r *reader) scan(b bucket, from, to string, fn func(key string, val []byte) bool) {
	r.walk(b, false, from, func(key string, val []byte) bool {
		return (to == "" || key < to) && fn(key, val)
	})
}

// scanBack shows the rows with from <= key < to in falling order until fn says false.
func (r *reader) scanBack(b bucket, from, to string, fn func(key string, val []byte) bool) {
	r.walk(b, true, to, func(key string, val []byte) bool {
		return key >= from && fn(key, val)
	})
}

// prefix shows the rows whose key begins with prefix, in rising order.
func (r *reader) prefix(b bucket, prefix string, fn func(key string, val []byte) bool) {
	r.scan(b, prefix, prefixEnd(prefix), fn)
}

// walk merges the layers: of all that stand next, the key that comes first is shown, by its
// newest layer, and every layer that holds it moves on.
func (r *reader) walk(b bucket, back bool, at string, fn func(key string, val []byte) bool) {
	if !r.begin() {
		return
	}
	rows := make([]layerIter, 0, 4)
	for _, o := range r.over {
		if o.lists[b].first() != nil {
			rows = append(rows, layerIter{list: &o.lists[b]})
		}
	}
	rows = append(rows, layerIter{file: r.file, sn: r.sn, b: b})
	for i := range rows {
		rows[i].seek(back, at)
	}
	for {
		var top *layerIter
		for i := range rows {
			it := &rows[i]
			if it.err != nil {
				r.fail(it.err)
				return
			}
			if it.ok && (top == nil || (it.key < top.key) != back && it.key != top.key) {
				top = it
			}
		}
		if top == nil {
			return
		}
		key := top.key
		if !top.gone {
			val, err := top.value()
			if err != nil {
				r.fail(err)
				return
			}
			if !fn(key, val) || r.err != nil {
				return
			}
		}
		for i := range rows {
			if it := &rows[i]; it.ok && it.key == key {
				it.step(back)
			}
		}
	}
}

// layerIter stands at one row of one layer: of an overlay's list, or of the file.
type layerIter struct {
	list *skiplist
	e    *entry

	file   *file
	sn     *snapshot
	b      bucket
	cur    *bolt.Cursor
	sealed []byte

	key  string
	gone bool
	ok   bool
	err  error
}

// seek goes to the first row not before at, or, back, to the last one before it.
func (it *layerIter) seek(back bool, at string) {
	switch {
	case it.list == nil:
		it.cur, it.key, it.sealed, it.ok, it.err = it.file.seek(it.sn, it.b, back, at)
	case back:
		it.stand(it.list.below(at))
	default:
		it.stand(it.list.ceil(at))
	}
}

func (it *layerIter) step(back bool) {
	switch {
	case it.list == nil:
		it.key, it.sealed, it.ok, it.err = it.file.step(it.cur, it.b, back, it.key)
	case back:
		if it.key == "" { // nothing is before the empty key, and below("") is the last
			it.ok = false
			return
		}
		it.stand(it.list.below(it.key))
	default:
		it.stand(it.e.next[0])
	}
}

func (it *layerIter) stand(e *entry) {
	it.e, it.ok = e, e != nil
	if it.ok {
		it.key, it.gone = e.key, e.gone
	}
}

func (it *layerIter) value() ([]byte, error) {
	if it.list != nil {
		return it.e.val, nil
	}
	return it.file.open(it.b, it.key, it.sealed)
}
