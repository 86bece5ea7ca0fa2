package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/stream"
)

func TestARecordOfANewerFormatIsRefusedWithBothNumbers(t *testing.T) {
	for _, c := range []struct {
		header, want string
	}{
		{"", ""},
		{"1", ""},
		{"2", ""},
		{"3", "record 7 of EVENTS has format 3, and this release knows formats 1 to 2: this was written by a newer release"},
		{"x", `has "x" for its format`},
		{"0", `has "0" for its format`},
	} {
		m := stream.Message{Stream: stream.Events, Sequence: 7, Header: nats.Header{}}
		if c.header != "" {
			m.Header.Set(headerFormat, c.header)
		}
		err := allReadable([]stream.Message{{Sequence: 6}, m})
		switch {
		case c.want == "" && err != nil, c.want != "" && err == nil:
			t.Errorf("%q: %v", c.header, err)
		case c.want != "" && (!errors.Is(err, errNewerFormat) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q: %v, want %q", c.header, err, c.want)
		}
	}
}

func TestADataFolderOfANewerFormatIsRefusedWithBothNumbers(t *testing.T) {
	dir := t.TempDir()
	open := func() error {
		d, err := openDataDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		return d.checkFormat()
	}
	mark := filepath.Join(dir, "format")
	for range 2 { // made, then found
		if err := open(); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(mark); err != nil || string(text) != "{\"format\":1}\n" {
		t.Errorf("a new folder is marked %q, %v", text, err)
	}
	for text, want := range map[string]string{
		`{"format":2,"more":[]}`: "has format 2, and this release knows formats 1 to 1",
		`{"format":0}`:           "does not say the format",
		`2`:                      "does not say the format",
		``:                       "does not say the format",
	} {
		if err := os.WriteFile(mark, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
