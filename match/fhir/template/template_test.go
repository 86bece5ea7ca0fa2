package template_test

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir/template"
)

func TestVariablesAreReplacedAndNothingElseIs(t *testing.T) {
	value := func(name string) string { return "<" + name + ">" }
	for _, c := range []struct{ name, text, want string }{
		{"plain text stays", "A resource has changed", "A resource has changed"},
		{"one variable", "Event ${event}", "Event <event>"},
		{"two side by side", "${event}${type}", "<event><type>"},
		{"the same twice", "${event}, ${event}", "<event>, <event>"},
		{"a lone dollar or brace is text", "$5 {event} }", "$5 {event} }"},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tpl, err := template.Parse(c.text, "event", "type")
			if err != nil {
				t.Fatal(err)
			}
			if got := tpl.Expand(value); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestAValueIsNeverReadAsATemplate(t *testing.T) {
	tpl, err := template.Parse("${event}", "event", "type")
	if err != nil {
		t.Fatal(err)
	}
	if got := tpl.Expand(func(string) string { return "${type}" }); got != "${type}" {
		t.Errorf("got %q", got)
	}
}

func TestAnUnknownVariableIsRefusedWithThoseThatThereAre(t *testing.T) {
	for _, text := range []string{"${nope}", "${}", "${event", "${ event }", "${#if}"} {
		_, err := template.Parse(text, "event")
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		if strings.Contains(text, "}") && !strings.Contains(err.Error(), "${event}") {
			t.Errorf("%q: the error does not say what there is: %v", text, err)
		}
	}
}

func TestUses(t *testing.T) {
	tpl, err := template.Parse("event ${type}", "event", "type")
	if err != nil {
		t.Fatal(err)
	}
	if tpl.Uses("event") || !tpl.Uses("type") {
		t.Error("plain text is taken for a variable, or a variable is not found")
	}
}
