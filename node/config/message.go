package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/stream"
	"github.com/goccy/go-yaml/ast"
)

// Message holds the defaults of message channels.
type Message struct {
	Envelope string `yaml:"envelope"` // "plain": the resource; "hapi": HAPI's JSON around it
	// Subjects are those that a Subscription may publish on with the endpoint nats:SUBJECT, with
	// * and > for tokens. They are of no tree of our own.
	Subjects []string `yaml:"subjects"`
}

// Command is a program that sends notifications, one process for each.
type Command struct {
	Command     []string      `yaml:"command"`     // absolute path, and arguments
	Timeout     time.Duration `yaml:"timeout"`     // of one notification; 0: delivery.rest_hook.timeout
	Concurrency int           `yaml:"concurrency"` // processes at once, on each node; 0: 4
	Env         []string      `yaml:"env"`         // names of variables that are passed on; nothing else is
}

var (
	commandGrammar = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.$-]{0,199}$`)
	envGrammar     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (l *loader) commands(n ast.Node, commands *map[string]Command, key string) {
	*commands = nil
	for _, e := range l.entries(n, key) {
		name, ok := keyText(e.Key)
		if !ok {
			l.problem(l.at(e.Key), key, "only plain names are understood here, not %s", describe(e.Key))
			continue
		}
		l.cfg.origin[join(key, name)] = l.at(e.Key)
		var one Command
		l.section(e.Value, reflect.ValueOf(&one).Elem(), join(key, name))
		if *commands == nil {
			*commands = map[string]Command{}
		}
		(*commands)[name] = one
	}
}

func (v *validation) message() {
	v.oneOf("delivery.message.envelope", v.cfg.Delivery.Message.Envelope, string(fhir.EnvelopePlain), string(fhir.EnvelopeHAPI))
	if err := stream.CheckMessageSubjects(v.cfg.Delivery.Message.Subjects); err != nil {
		v.refuse("delivery.message.subjects", "%v", err)
	}
	if age := v.cfg.Retention.Messages; age != 0 {
		v.between("retention.messages", age, stream.MinMessageAge, 10*365*24*time.Hour)
	}
}

func (v *validation) commands() {
	for _, name := range slices.Sorted(maps.Keys(v.cfg.Delivery.Commands)) {
		c, key := v.cfg.Delivery.Commands[name], "delivery.commands."+name
		if !commandGrammar.MatchString(name) {
			v.refuse(key, "a name begins with a letter and has letters, digits, '_', '-', '.' and '$', at most 200")
		}
		switch {
		case len(c.Command) == 0:
			v.refuse(key+".command", "give the program and its arguments, such as [/usr/local/bin/to-lab, --fast]")
		case !filepath.IsAbs(c.Command[0]):
			v.refuse(key+".command", "%q is not an absolute path: what a search of PATH finds differs from node to node", c.Command[0])
		}
		if c.Timeout != 0 {
			v.between(key+".timeout", c.Timeout, 100*time.Millisecond, 2*time.Minute)
		}
		v.count(key+".concurrency", c.Concurrency, 0, 256)
		for _, e := range c.Env {
			if !envGrammar.MatchString(e) {
				v.refuse(key+".env", "%q is not the name of a variable", e)
			}
		}
	}
}

func (c Config) showCommands(b *strings.Builder) {
	if len(c.Delivery.Commands) == 0 {
		return
	}
	b.WriteString("  commands:\n")
	for _, name := range slices.Sorted(maps.Keys(c.Delivery.Commands)) {
		fmt.Fprintf(b, "    %s:\n", quote(name))
		showFields(b, reflect.ValueOf(c.Delivery.Commands[name]), func(line string) { b.WriteString("      " + line) }, "")
	}
}
