package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// everyKeyOfACommandIsIn wants every key of a command in the example.
func everyKeyOfACommandIsIn(t *testing.T, commands map[string]Command) {
	t.Helper()
	typ := reflect.TypeFor[Command]()
	for i := range typ.NumField() {
		shown := false
		for _, c := range commands {
			shown = shown || !reflect.ValueOf(c).Field(i).IsZero()
		}
		if !shown {
			t.Errorf("cluster.yaml shows no command with %s", typ.Field(i).Tag.Get("yaml"))
		}
	}
}

func TestCommandsAndMessagesAreReadAndShownTheSame(t *testing.T) {
	c, problems := load(t, `
delivery:
  message: {envelope: hapi, subjects: ["lab.>", site.*.results]}
  commands:
    to-lab: {command: [/bin/to-lab]}
    org.example.ExampleDeliverer: {command: [/bin/x, "-a b", ""], timeout: 30s, concurrency: 2, env: [HOME, LAB_1]}
retention: {messages: 720h}
`)
	if problems != nil {
		t.Fatal(problems)
	}
	want := map[string]Command{
		"to-lab":                       {Command: []string{"/bin/to-lab"}},
		"org.example.ExampleDeliverer": {Command: []string{"/bin/x", "-a b", ""}, Timeout: 30 * time.Second, Concurrency: 2, Env: []string{"HOME", "LAB_1"}},
	}
	if !reflect.DeepEqual(c.Delivery.Commands, want) || c.Retention.Messages != 720*time.Hour {
		t.Errorf("read %+v, %v", c.Delivery.Commands, c.Retention)
	}
	again, problems := load(t, c.Show())
	if problems != nil {
		t.Fatalf("%v in\n%s", problems, c.Show())
	}
	if !reflect.DeepEqual(again.Delivery.Commands, want) || !reflect.DeepEqual(again.Delivery.Message, c.Delivery.Message) || again.Retention != c.Retention {
		t.Errorf("shown as\n%s", c.Show())
	}
	other := c
	other.Delivery.Commands = nil
	if changed := Changed(c, other); !reflect.DeepEqual(changed, []string{"delivery.commands"}) {
		t.Errorf("changed: %v", changed)
	}
	if c.Shared()["delivery.commands"] == other.Shared()["delivery.commands"] {
		t.Error("nodes with other commands pass for the same")
	}
}

func TestWrongCommandsAndSubjectsAreTold(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"no program", "delivery: {commands: {x: {timeout: 3s}}}", "delivery.commands.x.command: give the program"},
		{"searched in PATH", "delivery: {commands: {x: {command: [to-lab]}}}", "not an absolute path"},
		{"name", "delivery: {commands: {\"a b\": {command: [/x]}}}", "a name begins with a letter"},
		{"unknown key", "delivery: {commands: {x: {command: [/x], shell: true}}}", "unknown key delivery.commands.x.shell"},
		{"variable with its value", "delivery: {commands: {x: {command: [/x], env: [A=b]}}}", "is not the name of a variable"},
		{"time", "delivery: {commands: {x: {command: [/x], timeout: 1h}}}", "delivery.commands.x.timeout: 1h is not between"},
		{"envelope", "delivery: {message: {envelope: xml}}", `delivery.message.envelope: "xml" is not plain or hapi`},
		{"everything", "delivery: {message: {subjects: [\">\"]}}", "must begin with a token of its own"},
		{"a tree of ours", "delivery: {message: {subjects: [fhir.event.x]}}", "are Carillon's or the engine's"},
		{"the engine's", "delivery: {message: {subjects: [$JS.API.x]}}", "are Carillon's or the engine's"},
		{"inboxes", "delivery: {message: {subjects: [_INBOX.x]}}", "are Carillon's or the engine's"},
		{"no subject", "delivery: {message: {subjects: [\"lab..x\"]}}", "is no subject"},
		{"overlap", "delivery: {message: {subjects: [\"lab.>\", lab.a]}}", "overlap"},
		{"retention", "retention: {messages: 1s}", "retention.messages: 1s is not between 2m"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, problems := load(t, tc.text)
			if text := strings.Join(problems, "\n"); !strings.Contains(text, tc.want) {
				t.Errorf("told %q, want %q", text, tc.want)
			}
		})
	}
}
