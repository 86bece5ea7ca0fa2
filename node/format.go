package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/carillon-fhir/carillon/stream"
)

// Formats that this release writes, and the newest that it reads. A release that changes what a
// file or a record means raises the number and goes on reading all that came before.
const (
	folderFormat = 1
	recordFormat = sealedFormat
)

// sealedFormat is that of a Subscription with sealed secrets, the one kind of record that is not in
// format 1. A release that took the sealed texts for what they stand for would send them.
const sealedFormat = 2

// headerFormat says of a record of any log in which format it is; a record without it is in
// format 1. It is a header rather than a part of the record, so that it can be read whatever a
// newer release has made of the rest.
const headerFormat = "Carillon-Format"

// errNewerFormat: a newer release wrote this. Nothing of it is skipped or guessed at: the node
// ends, and the newer release goes on where it stopped.
var errNewerFormat = errors.New("this was written by a newer release of carillon: run that one")

// readable is nil for a record whose format is known. One that cannot be read at all is another
// matter: it is set aside, by every node alike.
func readable(m stream.Message) error {
	text := m.Header.Get(headerFormat)
	if text == "" {
		return nil
	}
	format, err := strconv.Atoi(text)
	if err != nil || format < 1 {
		return fmt.Errorf("record %d of %s has %q for its format, and this release knows formats 1 to %d: %w", m.Sequence, m.Stream, text, recordFormat, errNewerFormat)
	}
	if format > recordFormat {
		return fmt.Errorf("record %d of %s has format %d, and this release knows formats 1 to %d: %w", m.Sequence, m.Stream, format, recordFormat, errNewerFormat)
	}
	return nil
}

// allReadable is readable for a run of records.
func allReadable(ms []stream.Message) error {
	for _, m := range ms {
		if err := readable(m); err != nil {
			return err
		}
	}
	return nil
}

// folderMark is what the file format of a data folder holds.
type folderMark struct {
	Format int `json:"format"`
}

// checkFormat refuses a folder of a newer format, and marks one that has no mark: a new one, or
// one from before there were marks, which is in format 1.
func (d *dataDir) checkFormat() error {
	path := filepath.Join(d.path, "format")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return writeFileSynced(path, fmt.Appendf(nil, "{\"format\":%d}\n", folderFormat))
	}
	if err != nil {
		return fmt.Errorf("read format of data folder: %w", err)
	}
	var mark folderMark
	if err := json.Unmarshal(text, &mark); err != nil || mark.Format < 1 {
		return fmt.Errorf("%s does not say the format of the data folder: it should hold {\"format\":%d} or another number", path, folderFormat)
	}
	if mark.Format > folderFormat {
		return fmt.Errorf("data folder %s has format %d, and this release knows formats 1 to %d: %w", d.path, mark.Format, folderFormat, errNewerFormat)
	}
	return nil
}
