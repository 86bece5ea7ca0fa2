package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// checkPages reads the skeleton of a bbolt file and refuses one that bbolt could not survive.
//
// Most damage makes bbolt panic, which is caught. Three kinds do worse: a branch that leads
// back to itself exhausts the stack, which no program survives; a file that ends early gives
// a fault in the mapping; a list of free pages that names one in use lets the next commit
// overwrite it. So, before bbolt opens the file: one of the two meta pages is good, the file
// is as long as it says, the branches form a tree within the file, and no free page is part
// of it. Rows have checksums of their own.
//
// Thorough looks at the header of every leaf as well; without it the cost is that of the
// branch pages, about a hundredth of the file.
func checkPages(f *os.File, thorough bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := newestMeta(f, info.Size())
	if err != nil {
		return err
	}
	if m.pages > uint64(info.Size())/uint64(m.pageSize) {
		return fmt.Errorf("the file has %d bytes and should have %d", info.Size(), m.pages*uint64(m.pageSize))
	}
	c := &pageCheck{f: f, meta: m, used: make([]uint64, m.pages/64+1), thorough: thorough}
	for p := range uint64(2) {
		c.use(p, 0)
	}
	if err := c.buckets(); err != nil {
		return err
	}
	return c.freelist()
}

// The layout of bbolt's pages (go.etcd.io/bbolt, internal/common): a header of 16 bytes (id,
// flags, count, overflow), then elements. Numbers are in the machine's own order.
const (
	headerLen  = 16
	elementLen = 16

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	metaLen     = 64
	noFreelist  = ^uint64(0)
)

var order = binary.NativeEndian

type boltMeta struct {
	pageSize uint32
	root     uint64
	freelist uint64
	pages    uint64 // number of pages ever used
	txid     uint64
}

// newestMeta chooses as bbolt does: of the good meta pages the one of the later transaction.
// One bad page is what a power cut may leave; the other is then the state before it.
func newestMeta(f io.ReaderAt, size int64) (boltMeta, error) {
	var best boltMeta
	found := false
	try := func(at int64) {
		if m, ok := readMeta(f, at); ok && (!found || m.txid > best.txid) {
			best, found = m, true
		}
	}
	try(0)
	if found {
		try(int64(best.pageSize))
	} else {
		for ps := int64(1024); ps <= 1<<16 && ps < size; ps <<= 1 {
			try(ps)
		}
	}
	if !found {
		return best, errors.New("neither of its two meta pages is good")
	}
	return best, nil
}

func readMeta(f io.ReaderAt, at int64) (boltMeta, bool) {
	var b [headerLen + metaLen]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return boltMeta{}, false
	}
	m := b[headerLen:]
	h := fnv.New64a()
	h.Write(m[:metaLen-8])
	if order.Uint32(m) != boltMagic || order.Uint32(m[4:]) != boltVersion || order.Uint64(m[56:]) != h.Sum64() {
		return boltMeta{}, false
	}
	meta := boltMeta{
		pageSize: order.Uint32(m[8:]),
		root:     order.Uint64(m[16:]),
		freelist: order.Uint64(m[32:]),
		pages:    order.Uint64(m[40:]),
		txid:     order.Uint64(m[48:]),
	}
	ps := meta.pageSize
	return meta, ps >= 1024 && ps <= 1<<16 && ps&(ps-1) == 0
}

// pageCheck walks the tree and remembers which pages are part of it.
type pageCheck struct {
	f        *os.File
	meta     boltMeta
	used     []uint64 // a bit for each page
	thorough bool
}

type pageHeader struct {
	flags, count uint16
	overflow     uint32
}

// use marks pages as part of the tree and says whether they are within the file and were not
// part of it before.
func (c *pageCheck) use(page uint64, overflow uint32) bool {
	if page >= c.meta.pages || uint64(overflow) >= c.meta.pages-page {
		return false
	}
	for p := page; p <= page+uint64(overflow); p++ {
		if c.used[p/64]&(1<<(p%64)) != 0 {
			return false
		}
		c.used[p/64] |= 1 << (p % 64)
	}
	return true
}

func (c *pageCheck) header(page uint64) (pageHeader, error) {
	var b [headerLen]byte
	if page < 2 || page >= c.meta.pages {
		return pageHeader{}, fmt.Errorf("page %d does not exist", page)
	}
	if _, err := c.f.ReadAt(b[:], int64(page)*int64(c.meta.pageSize)); err != nil {
		return pageHeader{}, fmt.Errorf("page %d: %w", page, err)
	}
	h := pageHeader{flags: order.Uint16(b[8:]), count: order.Uint16(b[10:]), overflow: order.Uint32(b[12:])}
	if order.Uint64(b[:]) != page || !c.use(page, h.overflow) {
		return h, fmt.Errorf("page %d is not in its place", page)
	}
	return h, nil
}

// body reads a whole page.
func (c *pageCheck) body(page uint64, h pageHeader) ([]byte, error) {
	b := make([]byte, (uint64(h.overflow)+1)*uint64(c.meta.pageSize))
	if _, err := c.f.ReadAt(b, int64(page)*int64(c.meta.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", page, err)
	}
	if headerLen+int(h.count)*elementLen > len(b) {
		return nil, fmt.Errorf("page %d has more elements than fit", page)
	}
	return b, nil
}

// buckets walks the tree of each bucket that the root names. The root is a tree of its own:
// one leaf, or more where small buckets lie inside of it.
func (c *pageCheck) buckets() error {
	root := &treeCheck{pageCheck: c, leaf: c.named}
	return root.walk(c.meta.root, 0)
}

// named walks the buckets that a leaf of the root names.
func (c *pageCheck) named(page uint64, h pageHeader) error {
	b, err := c.body(page, h)
	if err != nil {
		return err
	}
	for i := range int(h.count) {
		at := headerLen + i*elementLen
		flags, pos := order.Uint32(b[at:]), uint64(order.Uint32(b[at+4:]))
		ksize, vsize := uint64(order.Uint32(b[at+8:])), uint64(order.Uint32(b[at+12:]))
		start := uint64(at) + pos + ksize
		if flags != bucketFlag || vsize < 16 || start+vsize > uint64(len(b)) {
			return errors.New("its root names something else than buckets")
		}
		if err := c.bucket(b[start : start+vsize]); err != nil {
			return err
		}
	}
	return nil
}

// bucket walks one bucket's tree; a small bucket is a page inside of its own value.
func (c *pageCheck) bucket(v []byte) error {
	root := order.Uint64(v)
	if root != 0 {
		t := &treeCheck{pageCheck: c}
		return t.walk(root, 0)
	}
	inline := v[16:]
	if len(inline) < headerLen || order.Uint16(inline[8:]) != leafPage ||
		headerLen+int(order.Uint16(inline[10:]))*elementLen > len(inline) {
		return errors.New("a small bucket is not a leaf")
	}
	return nil
}

// treeCheck walks one tree. All leaves of a tree are equally deep: depth, found on the first
// way down, tells them without a look (0 while it is not known).
type treeCheck struct {
	*pageCheck
	depth int
	leaf  func(page uint64, h pageHeader) error // looks into every leaf, where given
}

func (t *treeCheck) walk(page uint64, level int) error {
	if t.leaf == nil && !t.thorough && t.depth != 0 && level == t.depth {
		if page < 2 || !t.use(page, 0) {
			return fmt.Errorf("page %d is not in its place", page)
		}
		return nil
	}
	h, err := t.header(page)
	switch {
	case err != nil:
		return err
	case h.flags == leafPage && (t.depth == 0 || t.depth == level):
		t.depth = level
		if t.leaf != nil {
			return t.leaf(page, h)
		}
		return nil
	case h.flags != branchPage || h.count == 0 || (t.depth != 0 && level >= t.depth):
		return fmt.Errorf("page %d is of the wrong kind", page)
	}
	b, err := t.body(page, h)
	if err != nil {
		return err
	}
	for i := range int(h.count) {
		if err := t.walk(order.Uint64(b[headerLen+i*elementLen+8:]), level+1); err != nil {
			return err
		}
	}
	return nil
}

// freelist checks that pages listed as free are within the file, listed once and not in use.
func (c *pageCheck) freelist() error {
	if c.meta.freelist == noFreelist {
		return nil
	}
	h, err := c.header(c.meta.freelist)
	if err != nil {
		return err
	}
	if h.flags != freelistPage {
		return errors.New("its list of free pages is none")
	}
	b := make([]byte, (uint64(h.overflow)+1)*uint64(c.meta.pageSize))
	if _, err := c.f.ReadAt(b, int64(c.meta.freelist)*int64(c.meta.pageSize)); err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	ids, count := b[headerLen:], uint64(h.count)
	if count == 0xFFFF { // more than the header can say
		count = order.Uint64(ids)
		ids = ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return errors.New("its list of free pages is longer than it can be")
	}
	for i := range count {
		if p := order.Uint64(ids[i*8:]); p < 2 || !c.use(p, 0) {
			return fmt.Errorf("page %d is listed as free and is not", p)
		}
	}
	return nil
}
