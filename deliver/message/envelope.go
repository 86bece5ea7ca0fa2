package message

import (
	"bytes"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// wrapped is a message as HAPI FHIR writes it (ResourceModifiedJsonMessage), with the members that
// its readers look at. The names are HAPI's.
type wrapped struct {
	Headers wrappedHeaders `json:"headers"`
	Payload wrappedPayload `json:"payload"`
}

type wrappedHeaders struct {
	RetryCount            int            `json:"retryCount"`
	FirstFailureTimestamp int64          `json:"firstFailureTimestamp,omitempty"` // milliseconds since 1970
	CustomHeaders         map[string]any `json:"customHeaders"`                   // a string, or a list of strings
}

type wrappedPayload struct {
	OperationType  string           `json:"operationType"` // CREATE, UPDATE or DELETE
	TransactionID  string           `json:"transactionId"`
	Payload        string           `json:"payload,omitempty"` // the resource's JSON as a string
	PayloadID      string           `json:"payloadId"`         // Type/id/_history/version
	PayloadVersion string           `json:"payloadVersion,omitempty"`
	PartitionID    wrappedPartition `json:"partitionId"`
}

type wrappedPartition struct {
	AllPartitions bool `json:"allPartitions"`
}

// envelope puts a message into HAPI's envelope.
func envelope(n deliver.Notification, t deliver.Target, m *Message) ([]byte, error) {
	id, version := n.Key.String(), versionOf(n, t, m.Body)
	if version != "" {
		id += "/_history/" + version
	}
	w := wrapped{
		Headers: wrappedHeaders{RetryCount: max(n.Attempt-1, 0), CustomHeaders: custom(m.Custom)},
		Payload: wrappedPayload{
			OperationType:  strings.ToUpper(string(n.Interaction)),
			TransactionID:  transaction(n),
			Payload:        string(m.Body),
			PayloadID:      id,
			PayloadVersion: version,
			PartitionID:    wrappedPartition{AllPartitions: true},
		},
	}
	if !n.FirstFailure.IsZero() {
		w.Headers.FirstFailureTimestamp = n.FirstFailure.Truncate(time.Millisecond).UnixMilli()
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(w); err != nil {
		return nil, fmt.Errorf("HAPI's envelope: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// custom writes a header of one value as a string, and one of several as a list, as they were put
// into HAPI's map.
func custom(headers map[string][]string) map[string]any {
	out := map[string]any{}
	for name, values := range headers {
		if len(values) == 1 {
			out[name] = values[0]
		} else {
			out[name] = values
		}
	}
	return out
}

// versionOf is the version that the body shows of the resource that matched. Where it shows none,
// because there is no body or it is of something else, it is the event's, unless the Subscription
// wants no versions.
func versionOf(n deliver.Notification, t deliver.Target, body []byte) string {
	if t.Subscription != nil && t.Subscription.StripVersion {
		return ""
	}
	var tree fhirjson.Tree
	if len(body) > 0 && tree.Parse(body, fhirjson.Limits{Bytes: len(body)}) == nil {
		root := tree.Root()
		if tree.Is(tree.Get(root, "resourceType"), n.Key.Type) && tree.Is(tree.Get(root, "id"), string(n.Key.ID)) {
			if v := fhir.ID(tree.Str(tree.Get(tree.Get(root, "meta"), "versionId"))); v.Valid() {
				return string(v)
			}
		}
	}
	if n.Event == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(n.Event), 10)
}

// transaction is the id of the write, the same in the messages of all its Subscriptions and on
// every attempt: a UUID by name (RFC 9562 5.5) of the resource and its place in the log.
func transaction(n deliver.Notification) string {
	h := sha1.New()
	h.Write([]byte{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}) // names that are URLs
	fmt.Fprintf(h, "%s/_history/%d", n.Key, n.Event)
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
