package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestFlagsStandAnywhere(t *testing.T) {
	tests := []struct {
		line string
		want string // as urfave/cli gets it
	}{
		{"", ""},
		{"version", "version"},
		{"-o json version", "--o=json version"},
		{"version -o json", "--o=json version"},
		{"version --output=json --quiet", "--output=json --quiet version"},
		{"sub --quiet events a1 --since 3 -o csv", "--quiet --o=csv subscription events --since=3 -- a1"},
		{"subscription events --since=3 a1", "subscription events --since=3 -- a1"},
		{"subscription --server http://x events a1", "--server=http://x subscription events -- a1"},
		{"ingest a.ndjson --resume r b.ndjson", "ingest --resume=r -- a.ndjson b.ndjson"},
		{"ingest - --quiet", "--quiet ingest -- -"},
		{"ingest -- --quiet -x", "ingest -- --quiet -x"},
		{"resend Patient/1 --interaction --", "resend --interaction=-- -- Patient/1"},
		{"listen --delay -5s", "listen --delay=-5s"},
		{"serve --nats 127.0.0.1:1", "serve --nats=127.0.0.1:1"},
		{"--nats 127.0.0.1:1 serve", "serve --nats=127.0.0.1:1"},
		{"--nats nats://x tail", "--nats=nats://x tail"},
		{"tail --nats nats://x", "--nats=nats://x tail"},
		{"subscription create -f x.json", "subscription create --f=x.json"},
		{"help", "--help"},
		{"help sub create", "subscription create --help"},
		{"sub create a b --help", "subscription create --help"},
		{"sub -h", "subscription --help"},
		{"--version", "version"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			got, err := arrange(newApp(), strings.Fields(tt.line))
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Fields(tt.want); !reflect.DeepEqual(append([]string{}, got...), append([]string{}, want...)) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestWhatIsUnknownIsRefusedInOneLine(t *testing.T) {
	for line, want := range map[string]string{
		"serv":                         `unknown command "serv", did you mean serve?; see carillon --help`,
		"frobnicate":                   `unknown command "frobnicate"; see carillon --help`,
		"sub lst":                      `unknown command "lst", did you mean list?; see carillon subscription --help`,
		"sub":                          `carillon subscription needs one of: create, check, import, test, list, get, status, pause, resume, delete, events, secret, watch`,
		"dlq list --resaon x":          `unknown flag --resaon, did you mean --reason?; see carillon dlq list --help`,
		"-x version":                   `unknown flag --x; see carillon --help`,
		"dlq list --reason":            `flag --reason needs a value`,
		"version extra":                `carillon version takes no arguments, not "extra"`,
		"sub get":                      `carillon subscription get needs ID; see carillon subscription get --help`,
		"sub get a b":                  `carillon subscription get has one argument too many: "b"`,
		"sub get a_b":                  `"a_b" is not an id: 1 to 64 letters, digits, '-' and '.'`,
		"sub create":                   `carillon subscription create needs --file; see carillon subscription create --help`,
		"sub create -f none.json":      `open none.json: no such file or directory`,
		"sub events a --since x":       `invalid value "x" for flag -since: parse error`,
		"version -o xml":               `-o "xml" is not table, json, yaml or csv`,
		"sub list --server ftp://x":    `--server is not a URL such as http://127.0.0.1:8080`,
		"sub list --context nowhere":   `there is no context "nowhere"`,
		"dlq replay":                   `carillon dlq replay needs ids of dead letters, or --subscription, --since, --until, --reason or --kind`,
		"dlq replay a.1 --reason gone": `name dead letters by their ids, or choose them with --subscription and the other flags, not both`,
		"dlq list --since yesterday":   `--since "yesterday" is not a time such as 2026-01-31T08:00:00Z, a date, or an age such as 2h`,
		"resend nonsense":              `"nonsense" is not of the form Type/id`,
		"resend A/1 --interaction x":   `--interaction "x" is not update, create or delete`,
		"attempts --resource x":        `--resource: "x" is not of the form Type/id`,
		"token create x --role king":   `--role "king" is not reader, producer, subscriber, operator or admin`,
		"token create x":               `carillon token create needs --role; see carillon token create --help`,
		"explain Patient/1":            `carillon explain needs --subscription; see carillon explain --help`,
		"completion tcsh":              `"tcsh" is not bash, zsh or fish`,
		"listen --status 99":           `--status 99 is not between 200 and 599`,
		"ingest - --resume x":          `--resume needs files; standard input cannot be read again`,
		"bench --slow 1":               `--slow 1 is not between 0 and 0`,
		"match Patient x --fhir R6":    `--fhir "R6" is not R4, R4B or R5`,
		"serve --log-level loud":       `--log-level: observability.log.level: "loud" is not debug or info or warn or error`,
		"serve --http 0.0.0.0:8080":    `--http: node.http: 0.0.0.0:8080 can be reached from other machines but has no TLS; set security.tls.cert and security.tls.key, or listen on loopback, or start with --insecure-public`,
		"serve --http x":               `--http: node.http: "x" is not of the form host:port`,
		"serve --config none.yaml":     `read configuration: open none.yaml: no such file or directory`,
		"serve --node a/b":             `--node: "a/b" is not 1 to 64 letters, digits, - and _`,
		"config check /dev/null more":  `carillon config check has one argument too many: "more"`,
	} {
		t.Run(line, func(t *testing.T) {
			t.Setenv("XDG_CONFIG_HOME", t.TempDir())
			code, stdout, stderr := carillon(t, "", strings.Fields(line)...)
			if code != exitUsage || stdout != "" || stderr != "carillon: "+want+"\n" {
				t.Errorf("code %d, stdout %q, stderr\n%s\nwant\n%s", code, stdout, stderr, want)
			}
		})
	}
}

func TestEveryCommandTakesTheGlobalFlags(t *testing.T) {
	global := map[string]bool{}
	for _, f := range globalFlags() {
		for _, name := range f.Names() {
			global[name] = true
		}
	}
	app := newApp()
	for path, c := range leaves(app.Commands, nil) {
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				if global[name] && !(path == "serve" && name == "nats") {
					t.Errorf("carillon %s has a flag --%s of its own, and there is a global one", path, name)
				}
			}
		}
		if c.Action == nil {
			t.Errorf("carillon %s does nothing", path)
		}
	}
}
