package api

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func (f *fake) Consumers(context.Context) ([]Consumer, error) { return nil, nil }

func (f *fake) CreateConsumer(_ context.Context, o ConsumerOrder, by string) (Consumer, error) {
	if o.Stream != "messages" {
		return Consumer{}, fhir.Refuse(fhir.IssueValue, "", "stream is not messages, dead or events")
	}
	return Consumer{Reference: o.Stream + "/" + o.Name, Filter: o.Filter, From: o.From}, nil
}

func (f *fake) DeleteConsumer(_ context.Context, stream, name, by string) error {
	if name == "unknown" {
		return fhir.Refuse(fhir.IssueNotFound, "", "there is no consumer unknown")
	}
	return nil
}

func TestConsumersAreMadeListedAndDeleted(t *testing.T) {
	s := open(t)
	if w := s.must(200, "GET", admin+"/consumers", ""); w.Body.String() != "[]" {
		t.Errorf("none is listed as %s", w.Body)
	}
	var made Consumer
	w := s.must(201, "POST", admin+"/consumers", `{"stream":"messages","name":"lab","filter":"fhir.message.lab","from":"new"}`)
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || made.Reference != "messages/lab" || made.Filter != "fhir.message.lab" || made.From != FromNew {
		t.Errorf("made = %s", w.Body)
	}
	s.must(204, "DELETE", admin+"/consumers/messages/lab", "")
	s.must(404, "DELETE", admin+"/consumers/messages/unknown", "")
	s.must(422, "POST", admin+"/consumers", `{"stream":"lanes","name":"lab"}`)
	for _, bad := range []string{`{"stream":"messages","name":"lab","from":"yesterday"}`, `{"stream":"messages","nmae":"lab"}`, `[]`} {
		s.must(400, "POST", admin+"/consumers", bad)
	}
}
