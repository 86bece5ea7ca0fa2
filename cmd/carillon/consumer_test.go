package main

import (
	"strings"
	"testing"
)

func TestConsumerCreatePrintsWhatItsUserNeeds(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("CARILLON_SERVER", fake.url())
	t.Setenv("CARILLON_NATS", "nats://me:secret@10.0.0.1:4222")
	code, out, stderr := carillon(t, "", "consumer", "create", "lab", "--stream", "Messages", "--filter", "fhir.message.lab", "--from", "new")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{
		"stream   MESSAGES\n", "durable  lab\n", "filter   fhir.message.lab\n", `consumers: ["messages/lab"]`,
		"\n  $JS.API.CONSUMER.INFO.MESSAGES.lab\n  $JS.API.CONSUMER.MSG.NEXT.MESSAGES.lab\n  $JS.ACK.MESSAGES.lab.>\n",
		"nats --server nats://10.0.0.1:4222 consumer next MESSAGES lab --ack",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if strings.Contains(out, "secret") {
		t.Errorf("a password is printed:\n%s", out)
	}
	if len(fake.bodies) != 1 || fake.bodies[0] != `{"filter":"fhir.message.lab","from":"new","name":"lab","stream":"messages"}` {
		t.Errorf("asked for %q", fake.bodies)
	}
	code, out, _ = carillon(t, "", "consumer", "list")
	if code != 0 || !strings.Contains(out, "messages/lab") || !strings.Contains(out, "ACK PENDING") {
		t.Errorf("list: %d\n%s", code, out)
	}
}

func TestConsumerRefusesWhatItDoesNotKnow(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("CARILLON_SERVER", fake.url())
	for line, want := range map[string]string{
		"consumer create lab":                                    "--stream",
		"consumer create lab --stream lanes":                     "not messages, dead or events",
		"consumer create lab --stream messages --from yesterday": "not all or new",
		"consumer create --stream messages":                      "NAME",
		"consumer delete lab":                                    "--stream",
		"consumer delete other --stream dead":                    "is not known",
	} {
		code, _, stderr := carillon(t, "", strings.Fields(line)...)
		if code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %s; want %q", line, code, stderr, want)
		}
	}
	if len(fake.bodies) != 1 {
		t.Errorf("%d orders were sent", len(fake.bodies))
	}
}
