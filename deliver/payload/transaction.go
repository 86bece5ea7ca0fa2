package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Transaction is the transaction Bundle of resources: each of them in the shape, to be PUT under the
// id that the receiver knows it by. fullUrl is the relative address with the version, as HAPI has it,
// and without it where versions are left out. The id becomes the Bundle's.
func (s Shape) Transaction(id string, resources []Resource) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"resourceType":"Bundle","id":%s,"type":"transaction","entry":[`, quoted(id))
	for i, r := range resources {
		r, err := s.Resource(r)
		if err != nil {
			return nil, err
		}
		version, err := versionOf(r.Body)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.Key, err)
		}
		url := r.Key.String()
		full := url
		if version != "" {
			full += "/_history/" + version
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"fullUrl":%s,"resource":`, quoted(full))
		b.Write(r.Body)
		fmt.Fprintf(&b, `,"request":{"method":"PUT","url":%s}}`, quoted(url))
	}
	b.WriteString("]}")
	return b.Bytes(), nil
}

func quoted(s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("payload: " + err.Error()) // a string always has a JSON form
	}
	return text
}
