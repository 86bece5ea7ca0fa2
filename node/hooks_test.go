package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/node/hook"
)

// sends is a channel that notes what it is given.
type sends struct {
	got  []hook.Delivery
	fail *deliver.Error
}

func (s *sends) Send(_ context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	s.got = append(s.got, hook.Delivery{Notification: n, Target: t})
	return deliver.Receipt{Status: 200}, s.fail
}

func among(list ...hook.Interceptor) *hooks {
	return &hooks{list: list, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func delivery() (deliver.Notification, deliver.Target) {
	return deliver.Notification{MatchID: record.MatchID{Event: 7, Birth: 3}, Subscription: "s", Number: 2, Attempt: 1,
			Key: fhir.Key{Type: "Patient", ID: "p"}, Interaction: fhir.Update, Body: []byte(`{"resourceType":"Patient"}`)},
		deliver.Target{ID: "s", ChannelType: "rest-hook", Endpoint: "https://a.example/fhir"}
}

func TestInterceptorsChangeWhatIsSentInTheirOrder(t *testing.T) {
	var told []string
	note := func(name string) hook.Interceptor {
		return hook.Interceptor{
			Name: name,
			BeforeDelivery: func(_ context.Context, d *hook.Delivery) error {
				told = append(told, name+" before "+string(d.Body))
				d.Body = []byte(name)
				d.Headers = append(d.Headers[:len(d.Headers):len(d.Headers)], deliver.Header{Name: "X-By", Value: name})
				d.Target.Endpoint += "/" + name
				d.Key.ID = fhir.ID("A-" + name)
				// None of these is theirs to change.
				d.Number, d.Subscription, d.Attempt, d.Interaction = 99, "other", 5, fhir.Delete
				d.Target.ChannelType = "other"
				return nil
			},
			AfterDelivery: func(_ context.Context, d hook.Delivery, r deliver.Receipt) {
				told = append(told, fmt.Sprintf("%s after %s %d", name, d.Body, r.Status))
			},
		}
	}
	ch := &sends{}
	c := &hooked{Channel: ch, hooks: among(note("a"), hook.Interceptor{}, note("b")), copies: &copies{}}
	n, to := delivery()
	if _, failure := c.Send(t.Context(), n, to); failure != nil {
		t.Fatal(failure)
	}
	want := []string{`a before {"resourceType":"Patient"}`, "b before a", "a after b 200", "b after b 200"}
	if !reflect.DeepEqual(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	got := ch.got[0]
	changed, there := n, to
	changed.Key.ID = "A-b"
	changed.Body, changed.Headers = []byte("b"), []deliver.Header{{Name: "X-By", Value: "a"}, {Name: "X-By", Value: "b"}}
	there.Endpoint += "/a/b"
	if !reflect.DeepEqual(got, hook.Delivery{Notification: changed, Target: there}) {
		t.Errorf("sent %+v", got)
	}
	if string(n.Body) != `{"resourceType":"Patient"}` {
		t.Error("the notification itself was changed")
	}
}

func TestWhatAHookSaysBeforeADeliveryEndsIt(t *testing.T) {
	for _, tc := range []struct {
		name      string
		hook      func(d *hook.Delivery) error
		code      record.Code // empty: it is sent
		permanent bool
	}{
		{"nothing", func(d *hook.Delivery) error { return nil }, "", false},
		{"veto", func(d *hook.Delivery) error { return hook.ErrVeto }, record.Skipped, false},
		{"veto with a reason", func(d *hook.Delivery) error { return fmt.Errorf("not on Sundays: %w", hook.ErrVeto) }, record.Skipped, false},
		{"later", func(d *hook.Delivery) error { return fmt.Errorf("consent server: %w", hook.ErrRetry) }, record.PublishError, false},
		{"error", func(d *hook.Delivery) error { return errors.New("no such ward") }, record.RenderError, true},
		{"a key that would be a path", func(d *hook.Delivery) error { d.Key.ID = "../admin"; return nil }, record.RenderError, true},
		{"panic", func(d *hook.Delivery) error { panic("canary") }, record.RenderError, true},
		{"nil pointer", func(d *hook.Delivery) error { var p *int; *p = 1; return nil }, record.RenderError, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ch, others := &sends{}, 0
			other := hook.Interceptor{BeforeDelivery: func(context.Context, *hook.Delivery) error { others++; return nil },
				AfterFailure: func(context.Context, hook.Delivery, *deliver.Error) hook.Verdict { others += 10; return hook.Swallow }}
			c := &hooked{Channel: ch, copies: &copies{}, hooks: among(
				hook.Interceptor{Name: "x", BeforeDelivery: func(_ context.Context, d *hook.Delivery) error { return tc.hook(d) }}, other)}
			n, to := delivery()
			_, failure := c.Send(t.Context(), n, to)
			if tc.code == "" {
				if failure != nil || len(ch.got) != 1 || others != 1 {
					t.Errorf("%v, sent %d, others asked %d", failure, len(ch.got), others)
				}
				return
			}
			if failure == nil || failure.Code != tc.code || failure.Permanent != tc.permanent || len(ch.got) != 0 || others != 0 {
				t.Errorf("%+v, sent %d, others asked %d", failure, len(ch.got), others)
			} else if strings.Contains(failure.Error(), "canary") {
				t.Errorf("the error repeats what the hook panicked with: %v", failure)
			}
		})
	}
}

func TestAfterAFailureTheFirstVerdictDecides(t *testing.T) {
	says := func(v hook.Verdict) hook.Interceptor {
		return hook.Interceptor{AfterFailure: func(_ context.Context, _ hook.Delivery, f *deliver.Error) hook.Verdict {
			f.Code, f.Permanent = record.Gone, true // the hook has a copy
			return v
		}}
	}
	panics := hook.Interceptor{AfterFailure: func(context.Context, hook.Delivery, *deliver.Error) hook.Verdict { panic("x") }}
	never := hook.Interceptor{AfterFailure: func(context.Context, hook.Delivery, *deliver.Error) hook.Verdict {
		panic(errors.New("it was asked"))
	}}
	for _, tc := range []struct {
		name string
		list []hook.Interceptor
		was  record.Code
		want deliver.Error
	}{
		{"as usual", []hook.Interceptor{says(hook.AsUsual), panics}, record.HTTPStatus, deliver.Error{Code: record.HTTPStatus, Status: 500}},
		{"give up", []hook.Interceptor{panics, says(hook.GiveUp), says(hook.Swallow)}, record.HTTPStatus, deliver.Error{Code: record.HTTPStatus, Status: 500, Permanent: true}},
		{"swallow", []hook.Interceptor{says(hook.AsUsual), says(hook.Swallow), says(hook.GiveUp)}, record.HTTPStatus, deliver.Error{Code: record.Skipped}},
		{"what is no attempt is not asked about", []hook.Interceptor{says(hook.Swallow), never}, record.ProxyError, deliver.Error{Code: record.ProxyError, Status: 500}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ch := &sends{fail: &deliver.Error{Code: tc.was, Status: 500}}
			c := &hooked{Channel: ch, hooks: among(tc.list...), copies: &copies{}}
			n, to := delivery()
			_, failure := c.Send(t.Context(), n, to)
			if failure == nil || failure.Code != tc.want.Code || failure.Permanent != tc.want.Permanent || failure.Status != tc.want.Status {
				t.Errorf("%+v, want %+v", failure, tc.want)
			}
		})
	}
}

// lateLog is a log that does not answer in time.
type lateLog struct{}

func (lateLog) Publish(ctx context.Context, _, _ string, _ map[string][]string, _ []byte) error {
	return ctx.Err()
}
func (lateLog) Subject(name string) (string, error) { return "fhir.message." + name, nil }
func (lateLog) Takes(string) bool                   { return true }

// A timeout in the log of outcomes says that the endpoint was asked, hence that the copy was made before.
func TestACopyOrAHookThatIsLateIsNoTimeoutOfTheEndpoint(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	waits := hook.Interceptor{BeforeDelivery: func(ctx context.Context, _ *hook.Delivery) error { return ctx.Err() }}
	for name, c := range map[string]*hooked{
		"copy": {Channel: &sends{}, hooks: among(), copies: &copies{}, messages: message.New(message.Options{Log: lateLog{}})},
		"hook": {Channel: &sends{}, hooks: among(waits), copies: &copies{}},
	} {
		n, to := delivery()
		to.Subscription = &fhir.Subscription{NamedChannel: "q"}
		_, failure := c.Send(late, n, to)
		if failure == nil || failure.Code != record.PublishError || failure.Permanent {
			t.Errorf("%s: %+v", name, failure)
		}
		if c.copies.made(n) {
			t.Errorf("%s: the copy counts as made", name)
		}
	}
}

// panicky is a channel that cannot bear one resource.
type panicky struct{}

func (panicky) Send(context.Context, deliver.Notification, deliver.Target) (deliver.Receipt, *deliver.Error) {
	panic("canary")
}

func TestAChannelThatPanicsFailsTheOneMatch(t *testing.T) {
	c := &hooked{Channel: panicky{}, hooks: among(), copies: &copies{}}
	n, to := delivery()
	_, failure := c.Send(t.Context(), n, to)
	if failure == nil || failure.Code != record.RenderError || !failure.Permanent || strings.Contains(failure.Error(), "canary") {
		t.Errorf("%+v", failure)
	}
}

func TestAfterAHookOnMessagesOnlyItsOwnHasChanged(t *testing.T) {
	m := &message.Message{Subject: "fhir.message.q", Header: map[string][]string{"webhook-id": {"s.3.2"}}, Body: []byte("{}")}
	h := among(
		hook.Interceptor{BeforeMessage: func(_ context.Context, _ hook.Delivery, m *message.Message) error {
			m.Subject, m.Header["webhook-id"][0], m.Header["X"] = "fhir.event.x", "other", []string{"1"}
			m.Add("tag", "1", "2")
			m.Body = []byte("changed")
			return nil
		}},
		hook.Interceptor{BeforeMessage: func(_ context.Context, d hook.Delivery, m *message.Message) error {
			m.Add("tag", "3 "+string(m.Body)+" "+d.Name())
			return nil
		}})
	n, to := delivery()
	if failure := h.beforeMessage(t.Context(), n, to, m); failure != nil {
		t.Fatal(failure)
	}
	want := &message.Message{Subject: "fhir.message.q", Header: map[string][]string{"webhook-id": {"s.3.2"}},
		Custom: map[string][]string{"tag": {"1", "2", "3 changed s.3.2"}}, Body: []byte("changed")}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v, want %+v", m, want)
	}
}

func TestHooksOnMatchingAreAskedInTheirOrderUntilOneObjects(t *testing.T) {
	var asked []string
	says := func(name string, err error) hook.Interceptor {
		return hook.Interceptor{
			Name: name,
			BeforeMatch: func(_ context.Context, c *hook.Change) error {
				asked = append(asked, name+" "+string(c.Body))
				c.Body, c.Key.ID = []byte(string(c.Body)+name), "other"
				return err
			},
			AfterMatch: func(_ context.Context, c hook.Change, m hook.Match) error {
				asked = append(asked, name+" "+string(m.Subscription)+" "+string(c.Key.ID))
				return err
			},
		}
	}
	change := &record.Change{Event: record.Event{Sequence: 7, Key: fhir.Key{Type: "Patient", ID: "p"}}, Interaction: fhir.Update}
	if m := among(hook.Interceptor{}).matching(); m.Before != nil || m.Keep != nil {
		t.Error("matching asks though no interceptor wants to be")
	}
	for _, tc := range []struct {
		err  error
		ok   bool
		fail bool
		want []string
	}{
		{nil, true, false, []string{"a 0", "b 0a", "c 0ab", "a s p", "b s p", "c s p"}},
		{hook.ErrVeto, false, false, []string{"a 0", "b 0a", "a s p", "b s p"}},
		{errors.New("broken"), false, true, []string{"a 0", "b 0a", "a s p", "b s p"}},
	} {
		asked = nil
		m := among(says("a", nil), says("b", tc.err), says("c", nil)).matching()
		state, ok, err := m.Before(t.Context(), change, []byte("0"))
		if ok != tc.ok || (err != nil) != tc.fail || ok && string(state) != "0abc" {
			t.Errorf("%v: before gives %q, %v, %v", tc.err, state, ok, err)
		}
		kept, err := m.Keep(t.Context(), change, []byte("0"), index.Hit{ID: "s"})
		if kept != tc.ok || (err != nil) != tc.fail {
			t.Errorf("%v: after gives %v, %v", tc.err, kept, err)
		}
		if !reflect.DeepEqual(asked, tc.want) {
			t.Errorf("%v: asked %q, want %q", tc.err, asked, tc.want)
		}
	}
}

func TestOptionsThatCannotBeMeantAreRefusedBeforeAnythingIsOpened(t *testing.T) {
	for name, opts := range map[string][]Option{
		"no name":        {WithChannel("", &sends{})},
		"a bad name":     {WithChannel("a b", &sends{})},
		"no channel":     {WithChannel("a", nil)},
		"twice the same": {WithChannel("a", &sends{}), WithChannel("a", &sends{})},
	} {
		if n, err := New(testConfig(t.TempDir()), slog.New(slog.DiscardHandler), "test", opts...); err == nil {
			n.Stop(t.Context())
			t.Errorf("%s: taken", name)
		}
	}
}

// vetoing objects to the delivery of one resource.
func vetoing(id fhir.ID) hook.Interceptor {
	return hook.Interceptor{Name: "veto", BeforeDelivery: func(_ context.Context, d *hook.Delivery) error {
		if d.Key.ID == id {
			return hook.ErrVeto
		}
		return nil
	}}
}
