package message_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// fakeLog takes messages, or behaves otherwise.
type fakeLog struct {
	mu    sync.Mutex
	err   error
	hang  bool
	got   []published
	takes string
}

type published struct {
	subject, id string
	header      map[string][]string
	data        string
}

func (l *fakeLog) Publish(ctx context.Context, subject, id string, header map[string][]string, data []byte) error {
	l.mu.Lock()
	hang, err := l.hang, l.err
	if !hang && err == nil || errors.Is(err, errRefused) {
		l.got = append(l.got, published{subject, id, header, string(data)})
	}
	l.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (l *fakeLog) Subject(name string) (string, error) { return "fhir.message." + name, nil }
func (l *fakeLog) Takes(subject string) bool           { return subject == l.takes }

func (l *fakeLog) only(t *testing.T) published {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.got) != 1 {
		t.Fatalf("%d messages were published, want 1", len(l.got))
	}
	return l.got[0]
}

var errRefused = errors.New("refused")

func notification() deliver.Notification {
	return deliver.Notification{
		MatchID: record.MatchID{Event: 40, Birth: 12}, Subscription: "sub-1", Number: 5, Attempt: 1,
		Key: fhir.Key{Type: "Patient", ID: "1354"}, Interaction: fhir.Create, ContentType: "application/fhir+json",
		Body: []byte(`{"resourceType":"Patient","id":"1354","meta":{"versionId":"1"},"name":[{"family":"<Grün>"}],"multipleBirthInteger":1.0}`),
	}
}

func target(endpoint string) deliver.Target {
	return deliver.Target{ID: "sub-1", Birth: 12, ChannelType: message.Type, Endpoint: endpoint,
		Payload: "application/fhir+json", Headers: []string{"Authorization: Bearer canary:secret"}}
}

func TestTheMessageChannelsPromises(t *testing.T) {
	delivertest.TestChannel(t, func(t *testing.T) delivertest.Subject {
		l := &fakeLog{}
		return delivertest.Subject{
			Channel: message.New(message.Options{Log: l}),
			Target:  target("channel:q"),
			Behave: func(w delivertest.Wanted) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.hang = w == delivertest.Silence
				switch w {
				case delivertest.Refuse:
					l.err = errRefused
				case delivertest.Absent:
					l.err = errors.New("log is not available")
				default:
					l.err = nil
				}
			},
			Received: func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.got) },
			Names: func() []string {
				l.mu.Lock()
				defer l.mu.Unlock()
				var names []string
				for _, m := range l.got {
					if m.id != m.header["webhook-id"][0] {
						t.Errorf("the log's id is %q, the header %q", m.id, m.header["webhook-id"])
					}
					names = append(names, m.header["webhook-id"]...)
				}
				return names
			},
		}
	})
}

func TestAMessageIsTheResourceAndHeadersThatSayTheRest(t *testing.T) {
	body := string(notification().Body)
	ours := func(change map[string][]string) map[string][]string {
		h := map[string][]string{
			"webhook-id": {"sub-1.12.5"}, "Content-Type": {"application/fhir+json"}, "X-Carillon-Subscription": {"sub-1"},
			"X-Carillon-Event": {"5"}, "X-Carillon-Attempt": {"1"}, "Fhir-Interaction": {"create"}, "Fhir-Resource": {"Patient/1354"},
			"Authorization": {"Bearer canary:secret"},
		}
		for name, v := range change {
			if h[name] = v; v == nil {
				delete(h, name)
			}
		}
		return h
	}
	for _, tc := range []struct {
		name   string
		change func(n *deliver.Notification, t *deliver.Target)
		id     string
		header map[string][]string
		data   string
	}{
		{"created", func(*deliver.Notification, *deliver.Target) {}, "sub-1.12.5", ours(nil), body},
		{"another attempt has the same id", func(n *deliver.Notification, _ *deliver.Target) { n.Attempt = 3 },
			"sub-1.12.5", ours(map[string][]string{"X-Carillon-Attempt": {"3"}}), body},
		{"a replay has its own id, and the same name", func(n *deliver.Notification, _ *deliver.Target) { n.Round, n.Resend = 2, true },
			"sub-1.12.5/2", ours(map[string][]string{"X-Carillon-Resend": {"true"}}), body},
		{"a test is never a duplicate", func(n *deliver.Notification, _ *deliver.Target) { n.Test, n.TestID, n.Number = true, "x1", 0 },
			"", ours(map[string][]string{"X-Carillon-Test": {"true"}, "X-Carillon-Event": {"0"}, "webhook-id": {"sub-1.12.test-x1"}}), body},
		{"deleted", func(n *deliver.Notification, _ *deliver.Target) { n.Interaction, n.Body = fhir.Delete, nil },
			"sub-1.12.5", ours(map[string][]string{"Fhir-Interaction": {"delete"}, "Content-Type": nil}), ""},
		{"without payload", func(_ *deliver.Notification, t *deliver.Target) { t.Payload = "" },
			"sub-1.12.5", ours(map[string][]string{"Content-Type": nil}), ""},
		{"without payload, in a cluster of webhooks", func(_ *deliver.Notification, t *deliver.Target) {
			t.Payload, t.Style = "", deliver.StyleWebhook
		}, "sub-1.12.5", ours(map[string][]string{"Content-Type": nil}), ""},
		{"a payload search is wanted whatever the payload", func(n *deliver.Notification, t *deliver.Target) { t.Payload, n.Transaction = "", true },
			"sub-1.12.5", ours(nil), body},
		{"traced", func(n *deliver.Notification, _ *deliver.Target) { n.Trace = "00-1-2-01" },
			"sub-1.12.5", ours(map[string][]string{"traceparent": {"00-1-2-01"}}), body},
		{"headers repeat", func(n *deliver.Notification, t *deliver.Target) {
			t.Headers = []string{"X-A: 1", "", "X-A:2"}
			n.Headers = []deliver.Header{{Name: "X-A", Value: "3"}, {Name: "X-B", Value: "4"}}
		}, "sub-1.12.5", ours(map[string][]string{"Authorization": nil, "X-A": {"1", "2", "3"}, "X-B": {"4"}}), body},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, n, to := &fakeLog{}, notification(), target("channel:q")
			tc.change(&n, &to)
			if _, err := message.New(message.Options{Log: l}).Send(t.Context(), n, to); err != nil {
				t.Fatal(err)
			}
			m := l.only(t)
			if m.subject != "fhir.message.q" || m.id != tc.id || m.data != tc.data {
				t.Errorf("published %q id %q: %s", m.subject, m.id, m.data)
			}
			if !reflect.DeepEqual(m.header, tc.header) {
				t.Errorf("headers %v\nwant    %v", m.header, tc.header)
			}
		})
	}
}

func TestWhereAMessageGoes(t *testing.T) {
	for _, tc := range []struct{ endpoint, subject string }{
		{"channel:lab-1_x", "fhir.message.lab-1_x"},
		{"nats:lab.results", "lab.results"},
		{"nats:other.results", ""}, // the operator has taken it off the list
		{"channel:a.b", ""}, {"channel:", ""}, {"channel:*", ""}, {"nats:lab.>", ""}, {"http://x", ""}, {"", ""},
	} {
		l := &fakeLog{takes: "lab.results"}
		_, err := message.New(message.Options{Log: l}).Send(t.Context(), notification(), target(tc.endpoint))
		if tc.subject == "" {
			if err == nil || err.Code != record.PublishError || err.Permanent || len(l.got) != 0 {
				t.Errorf("%q: %v, and %d were published", tc.endpoint, err, len(l.got))
			}
			continue
		}
		if err != nil || l.only(t).subject != tc.subject {
			t.Errorf("%q: %v, published %+v", tc.endpoint, err, l.got)
		}
	}
}

func TestWhatTheLogSaysIsAFailureThatSaysWhetherToTryAgain(t *testing.T) {
	for _, tc := range []struct {
		name      string
		err       error
		permanent bool
	}{
		{"full", errors.New("no space left for the log"), false},
		{"no answer", message.ErrUnknown, false},
		{"too large", message.ErrTooLarge, true},
	} {
		_, err := message.New(message.Options{Log: &fakeLog{err: tc.err}}).Send(t.Context(), notification(), target("channel:q"))
		if err == nil || err.Code != record.PublishError || err.Permanent != tc.permanent || !errors.Is(err, tc.err) {
			t.Errorf("%s: %+v", tc.name, err)
		}
	}
}

func TestNoHeaderStandsInPlaceOfOursOrBeginsAnother(t *testing.T) {
	for _, h := range []deliver.Header{
		{Name: "Nats-Msg-Id", Value: "x"}, {Name: "nats-rollup", Value: "all"}, {Name: "webhook-id", Value: "x"}, {Name: "FHIR-Resource", Value: "x"},
		{Name: "X-Carillon-Event", Value: "1"}, {Name: "X A", Value: "1"}, {Name: "", Value: "1"}, {Name: "X-A\r\nNats-Msg-Id", Value: "1"},
		{Name: "X-A", Value: "canary\r\nNats-Msg-Id: x"}, {Name: "X-A", Value: "canary\x00"},
	} {
		for name, set := range map[string]func(*deliver.Notification, *deliver.Target) message.Options{
			"of an interceptor": func(n *deliver.Notification, _ *deliver.Target) message.Options {
				n.Headers = []deliver.Header{h}
				return message.Options{}
			},
			"of a message hook": func(*deliver.Notification, *deliver.Target) message.Options {
				return message.Options{Before: func(_ context.Context, _ deliver.Notification, _ deliver.Target, m *message.Message) *deliver.Error {
					m.Add(h.Name, h.Value)
					return nil
				}}
			},
			"of the Subscription": func(_ *deliver.Notification, t *deliver.Target) message.Options {
				t.Headers = []string{h.Name + ": " + h.Value}
				return message.Options{}
			},
		} {
			l, n, to := &fakeLog{}, notification(), target("channel:q")
			o := set(&n, &to)
			o.Log = l
			_, err := message.New(o).Send(t.Context(), n, to)
			if err == nil || err.Code != record.RenderError || !err.Permanent || len(l.got) != 0 {
				t.Errorf("%s, %q: %v", name, h, err)
			} else if strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: the error repeats the value: %v", name, err)
			}
		}
	}
}

// The members and their order are those of the example in Smile CDR's documentation, with the
// version of the resource besides.
func TestHAPIsEnvelopeIsThatOfItsDocumentation(t *testing.T) {
	send := func(t *testing.T, change func(*deliver.Notification, *deliver.Target, *message.Options)) published {
		t.Helper()
		l, n, to := &fakeLog{}, notification(), target("channel:q")
		o := message.Options{Log: l, Envelope: fhir.EnvelopeHAPI}
		change(&n, &to, &o)
		if _, err := message.New(o).Send(t.Context(), n, to); err != nil {
			t.Fatal(err)
		}
		return l.only(t)
	}
	none := func(*deliver.Notification, *deliver.Target, *message.Options) {}
	escaped, _ := json.Marshal(string(notification().Body))
	inString := strings.NewReplacer(`\u003c`, `<`, `\u003e`, `>`).Replace(string(escaped))
	want := `{"headers":{"retryCount":0,"customHeaders":{}},"payload":{"operationType":"CREATE","transactionId":"b5e99ed4-40fe-5d9c-a0df-000000000000",` +
		`"payload":` + inString + `,"payloadId":"Patient/1354/_history/1","payloadVersion":"1","partitionId":{"allPartitions":true}}}`
	m := send(t, none)
	id := func(data string) string {
		var w struct {
			Payload struct{ TransactionID string }
		}
		if err := json.Unmarshal([]byte(data), &w); err != nil {
			t.Fatal(err)
		}
		return w.Payload.TransactionID
	}
	if got := strings.Replace(m.data, id(m.data), "b5e99ed4-40fe-5d9c-a0df-000000000000", 1); got != want {
		t.Errorf("published\n%s\nwant\n%s", got, want)
	}
	if m.header["Content-Type"][0] != "application/json" {
		t.Errorf("headers %v", m.header)
	}
	other := send(t, func(n *deliver.Notification, _ *deliver.Target, _ *message.Options) { n.Birth, n.Number = 13, 9 })
	if id(other.data) != id(m.data) || len(id(m.data)) != 36 || id(m.data)[14] != '5' {
		t.Errorf("one write has the transactions %s and %s", id(m.data), id(other.data))
	}
	if third := send(t, func(n *deliver.Notification, _ *deliver.Target, _ *message.Options) { n.Event++ }); id(third.data) == id(m.data) {
		t.Error("two writes have one transaction")
	}

	for _, tc := range []struct {
		name     string
		change   func(*deliver.Notification, *deliver.Target, *message.Options)
		contains []string
		lacks    string
	}{
		{"a delete has no payload", func(n *deliver.Notification, _ *deliver.Target, _ *message.Options) {
			n.Interaction, n.Body = fhir.Delete, nil
		},
			[]string{`"operationType":"DELETE"`, `"payloadId":"Patient/1354/_history/40"`}, `"payload":"`},
		{"another attempt is a retry", func(n *deliver.Notification, _ *deliver.Target, _ *message.Options) {
			n.Attempt, n.FirstFailure = 3, time.UnixMilli(1658252247198)
		}, []string{`{"retryCount":2,"firstFailureTimestamp":1658252247198,`}, ""},
		{"a change feed's version is that of the body", func(n *deliver.Notification, _ *deliver.Target, _ *message.Options) {
			n.Body = []byte(`{"resourceType":"Patient","id":"1354","meta":{"versionId":"7.a"}}`)
		}, []string{`"payloadId":"Patient/1354/_history/7.a","payloadVersion":"7.a"`}, ""},
		{"a Bundle in its place has none of the resource's", func(n *deliver.Notification, _ *deliver.Target, _ *message.Options) {
			n.Body, n.Transaction = []byte(`{"resourceType":"Bundle","id":"x","meta":{"versionId":"7"}}`), true
		}, []string{`"payloadId":"Patient/1354/_history/40"`}, ""},
		{"versions may be unwanted", func(_ *deliver.Notification, t *deliver.Target, _ *message.Options) {
			t.Subscription = &fhir.Subscription{StripVersion: true}
		}, []string{`"payloadId":"Patient/1354","partitionId"`}, "payloadVersion"},
		{"headers of a hook are custom headers, lists of several values", func(_ *deliver.Notification, _ *deliver.Target, o *message.Options) {
			o.Before = func(_ context.Context, _ deliver.Notification, _ deliver.Target, m *message.Message) *deliver.Error {
				m.Add("tag", "a|1", "b|2")
				m.Add("family", "Grün")
				return nil
			}
		}, []string{`"customHeaders":{"family":"Grün","tag":["a|1","b|2"]}`}, "Bearer"},
		{"the Subscription wants it plain", func(_ *deliver.Notification, t *deliver.Target, _ *message.Options) {
			t.Subscription = &fhir.Subscription{Envelope: fhir.EnvelopePlain}
		}, []string{`{"resourceType":"Patient"`}, "retryCount"},
		{"the Subscription alone wants it", func(_ *deliver.Notification, t *deliver.Target, o *message.Options) {
			o.Envelope, t.Subscription = "", &fhir.Subscription{Envelope: fhir.EnvelopeHAPI}
		}, []string{`"retryCount":0`}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := send(t, tc.change)
			for _, want := range tc.contains {
				if !strings.Contains(m.data, want) {
					t.Errorf("published %s\nwithout %s", m.data, want)
				}
			}
			if tc.lacks != "" && strings.Contains(m.data, tc.lacks) {
				t.Errorf("published %s\nwith %s", m.data, tc.lacks)
			}
		})
	}
}

func TestACopyHasABodyWhereTheNotificationHas(t *testing.T) {
	for _, tc := range []struct {
		payload string
		style   deliver.Style
		body    bool
	}{
		{"application/json", deliver.StyleFHIR, true}, {"", deliver.StyleFHIR, false}, {"", deliver.StyleWebhook, true},
	} {
		l, to := &fakeLog{}, target("https://example.org/fhir")
		to.Payload, to.Style = tc.payload, tc.style
		if _, err := message.New(message.Options{Log: l}).Copy(t.Context(), "MyQueueName", notification(), to); err != nil {
			t.Fatal(err)
		}
		m := l.only(t)
		if m.subject != "fhir.message.MyQueueName" || (m.data != "") != tc.body {
			t.Errorf("%+v: published %+v", tc, m)
		}
		if m.header["Authorization"] != nil {
			t.Errorf("%+v: the login at the endpoint is published", tc)
		}
	}
}
