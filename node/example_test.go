package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/node"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/node/hook"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A program that embeds a node gives the messages of one Subscription headers of its own: what Smile
// CDR's documentation does with an interceptor on SUBSCRIPTION_BEFORE_MESSAGE_DELIVERY. A list of
// tags becomes as many headers. Any NATS client then reads the messages with a durable consumer.
func ExampleWithInterceptors() {
	headers := hook.Interceptor{
		Name: "headers for patient-sender",
		BeforeMessage: func(_ context.Context, d hook.Delivery, m *message.Message) error {
			if d.Subscription != "patient-sender" {
				return nil
			}
			var patient struct {
				Meta struct {
					Tag []struct{ System, Code string }
				}
				Name []struct{ Family string }
			}
			if err := json.Unmarshal(m.Body, &patient); err != nil {
				return err
			}
			m.Add("resource-id", d.Key.String())
			m.Add("resource-type", d.Key.Type)
			for _, tag := range patient.Meta.Tag {
				m.Add("tag", tag.System+"|"+tag.Code)
			}
			if len(patient.Name) > 0 {
				m.Add("patient-family-name", patient.Name[0].Family)
			}
			return nil
		},
	}

	cfg := config.Default()
	cfg.Node.HTTP, cfg.Node.NATS = "127.0.0.1:0", "127.0.0.1:0"
	var err error
	if cfg.Node.Data, err = os.MkdirTemp("", "carillon-example"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(cfg.Node.Data)
	n, err := node.New(cfg, slog.New(slog.DiscardHandler), "example", node.WithInterceptors(headers))
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			fmt.Println(err)
		}
	}()
	<-n.Ready()

	write := func(method, path, body string) {
		req, err := http.NewRequest(method, "http://"+n.Addr()+path, strings.NewReader(body))
		if err != nil {
			panic(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		res.Body.Close()
		fmt.Println(method, path, res.StatusCode)
	}
	write("POST", "/admin/api/v1/consumers", `{"stream":"messages","name":"wards","filter":"fhir.message.patients"}`)
	write("PUT", "/fhir/Subscription/patient-sender", `{"resourceType":"Subscription","id":"patient-sender","status":"active",
		"criteria":"Patient?","channel":{"type":"message","endpoint":"channel:patients","payload":"application/fhir+json"}}`)
	write("PUT", "/fhir/Patient/1354", `{"resourceType":"Patient","id":"1354","meta":{"tag":[
		{"system":"system-1","code":"code-1","display":"display-1"},{"system":"system-2","code":"code-2","display":"display-2"},
		{"system":"system-3","code":"code-3","display":"display-3"}]},"active":true,"name":[{"family":"Graham"}]}`)

	nc, err := nats.Connect("nats://" + n.NATSAddr())
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	wards, err := js.Consumer(ctx, "MESSAGES", "wards")
	if err != nil {
		panic(err)
	}
	m, err := wards.Next()
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"Fhir-Interaction", "tag", "resource-type", "resource-id", "patient-family-name"} {
		fmt.Println(name, m.Headers()[name])
	}
	if err := m.Ack(); err != nil {
		panic(err)
	}

	// Output:
	// POST /admin/api/v1/consumers 201
	// PUT /fhir/Subscription/patient-sender 201
	// PUT /fhir/Patient/1354 201
	// Fhir-Interaction [create]
	// tag [system-1|code-1 system-2|code-2 system-3|code-3]
	// resource-type [Patient]
	// resource-id [Patient/1354]
	// patient-family-name [Graham]
}
