package store

// overlay is what has been folded and is not yet in the file: an ordered map for each
// bucket, where a key may also be marked as gone. Values are never changed once they are in.
type overlay struct {
	lists   [bucketCount]skiplist
	rows    int
	bytes   int
	records int    // records of the logs that it holds, for the writer's rhythm
	at      Vector // position of the newest of them
}

func newOverlay() *overlay { return new(overlay) }

func (o *overlay) set(b bucket, key string, val []byte, gone bool) {
	if o.lists[b].set(key, val, gone) {
		o.rows++
		o.bytes += len(key) + rowOverhead
	}
	o.bytes += len(val)
}

// rowOverhead is about what an entry costs beside its key and value.
const rowOverhead = 96

// take lays the rows of a newer overlay over this one, and leaves that one empty: its entries
// move here.
func (o *overlay) take(newer *overlay) {
	for b := range newer.lists {
		for e := newer.lists[b].first(); e != nil; {
			next := e.next[0]
			if o.lists[b].insert(e) {
				o.rows++
				o.bytes += len(e.key) + rowOverhead
			}
			o.bytes += len(e.val)
			e = next
		}
		newer.lists[b].clear()
	}
	newer.rows, newer.bytes = 0, 0
}

// skiplist is an ordered map in memory. It is not safe for concurrent use; layers guards it.
type skiplist struct {
	head   [maxHeight]*entry
	height int
	rnd    uint64
}

type entry struct {
	key  string
	val  []byte
	gone bool
	next []*entry
	low  [1]*entry // next of most entries, which are of height one
}

func newEntry(key string, val []byte, gone bool, height int) *entry {
	e := &entry{key: key, val: val, gone: gone}
	if height == 1 {
		e.next = e.low[:]
	} else {
		e.next = make([]*entry, height)
	}
	return e
}

const maxHeight = 14

// path finds the first entry not before key and, for every height, the links that lead
// there: writing links[h][h] puts a new entry in front of it.
func (s *skiplist) path(key string, links *[maxHeight][]*entry) *entry {
	next := s.head[:]
	for h := s.height - 1; h >= 0; h-- {
		for n := next[h]; n != nil && n.key < key; n = next[h] {
			next = n.next
		}
		links[h] = next
	}
	return next[0]
}

// set puts an entry and reports whether its key is new.
func (s *skiplist) set(key string, val []byte, gone bool) bool {
	var links [maxHeight][]*entry
	if e := s.path(key, &links); e != nil && e.key == key {
		e.val, e.gone = val, gone
		return false
	}
	s.link(newEntry(key, val, gone, s.pickHeight()), &links)
	return true
}

// insert puts an entry that another list has let go, and reports whether its key is new; else
// the entry that is here takes over what it says.
func (s *skiplist) insert(e *entry) bool {
	var links [maxHeight][]*entry
	if old := s.path(e.key, &links); old != nil && old.key == e.key {
		old.val, old.gone = e.val, e.gone
		return false
	}
	s.link(e, &links)
	return true
}

// link puts an entry where path has found its place.
func (s *skiplist) link(e *entry, links *[maxHeight][]*entry) {
	for ; s.height < len(e.next); s.height++ {
		links[s.height] = s.head[:]
	}
	for h := range e.next {
		e.next[h] = links[h][h]
		links[h][h] = e
	}
}

// clear lets go of all entries.
func (s *skiplist) clear() {
	clear(s.head[:s.height])
	s.height = 0
}

// pickHeight gives a quarter of the entries of each height one more. The numbers need no
// quality and are the same in every run.
func (s *skiplist) pickHeight() int {
	if s.rnd == 0 {
		s.rnd = 0x9e3779b97f4a7c15
	}
	s.rnd ^= s.rnd << 13
	s.rnd ^= s.rnd >> 7
	s.rnd ^= s.rnd << 17
	h := 1
	for r := s.rnd; h < maxHeight && r&3 == 0; r >>= 2 {
		h++
	}
	return h
}

func (s *skiplist) first() *entry { return s.head[0] }

// get finds an entry, also one that marks its key as gone.
func (s *skiplist) get(key string) *entry {
	if e := s.ceil(key); e != nil && e.key == key {
		return e
	}
	return nil
}

// ceil is the first entry not before key.
func (s *skiplist) ceil(key string) *entry {
	next := s.head[:]
	for h := s.height - 1; h >= 0; h-- {
		for n := next[h]; n != nil && n.key < key; n = next[h] {
			next = n.next
		}
	}
	return next[0]
}

// below is the last entry before key; with an empty key, the last of all.
func (s *skiplist) below(key string) *entry {
	next := s.head[:]
	var last *entry
	for h := s.height - 1; h >= 0; h-- {
		for n := next[h]; n != nil && (key == "" || n.key < key); n = next[h] {
			next, last = n.next, n
		}
	}
	return last
}
