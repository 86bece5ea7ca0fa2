package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// errLineTooLong says that a line was longer than the limit. The reader has skipped it.
var errLineTooLong = errors.New("the line is too long")

// lineReader reads lines of NDJSON: it counts them, leaves out empty ones, and passes over
// those that are too long rather than ending the file there.
type lineReader struct {
	r     *bufio.Reader
	limit int
	line  int   // number of the line read last, from 1
	read  int64 // bytes consumed
	buf   []byte
}

func newLineReader(r io.Reader, limit int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 256<<10), limit: limit}
}

// next returns the next line that is not empty, without its end; io.EOF after the last. The
// bytes are valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.one()
		if err != nil || len(line) > 0 {
			return line, err
		}
	}
}

func (l *lineReader) one() ([]byte, error) {
	l.buf = l.buf[:0]
	tooLong, any := false, false
	for {
		part, err := l.r.ReadSlice('\n')
		l.read += int64(len(part))
		any = any || len(part) > 0
		if len(l.buf)+len(part) > l.limit+2 { // 2 for the line's end
			tooLong = true
		} else {
			l.buf = append(l.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && !any:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		}
		l.line++
		line := bytes.TrimSpace(l.buf)
		if tooLong || len(line) > l.limit {
			return nil, errLineTooLong
		}
		return line, nil
	}
}
