package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestAMisspeltMemberOfAChangeIsRefusedWithItsLine(t *testing.T) {
	r := newIngest(t)
	text := strings.Join([]string{
		`{"interaction":"update","resource":{"resourceType":"Patient","id":"1"}}`,
		`{"interacton":"delete","resource":{"resourceType":"Patient","id":"2"}}`,
		`{"Interaction":"delete","resource":{"resourceType":"Patient","id":"3"}}`,
		`{"interaction":"delete","previous":{"resourceType":"Patient","id":"4"},"x":1}`,
		`{"interaction":"update","interaction":"delete","resource":{"resourceType":"Patient","id":"5"}}`,
	}, "\n")
	code, _, stderr := r.run(r.file("a.ndjson", text))
	if code != exitUsage || !reflect.DeepEqual(r.fake.seen(), []string{"POST /fhir/$ingest"}) || len(r.fake.lines) != 1 {
		t.Errorf("code %d, requests %q, lines %q", code, r.fake.seen(), r.fake.lines)
	}
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	for i, want := range []string{
		`a.ndjson:2: a change has the members interaction, resource and previous, not "interacton", did you mean interaction?`,
		`a.ndjson:3: a change has the members interaction, resource and previous, not "Interaction"`,
		`a.ndjson:4: a change has the members interaction, resource and previous, not "x"`,
		`a.ndjson:5: not strict JSON: `,
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], "carillon: "+want) {
			t.Errorf("stderr lacks %s:\n%s", want, stderr)
		}
	}
}

func TestAnUnknownOutcomeCodeIsRefusedWithThoseThereAre(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, line := range []string{
		"dlq list --reason timeuot", "dlq replay --subscription a1 --reason timeuot", "dlq purge --subscription a1 --reason timeuot", "attempts --status timeuot",
	} {
		code, _, stderr := carillon(t, "", append(strings.Fields(line), "--server", fake.url())...)
		if code != exitUsage || !strings.Contains(stderr, `"timeuot" is no outcome code, did you mean timeout?; these are: accepted, http_status, `) {
			t.Errorf("%s: code %d, stderr %q", line, code, stderr)
		}
	}
	if code, _, _ := carillon(t, "", "attempts", "--status", "", "--server", fake.url()); code != exitUsage {
		t.Errorf("empty: code %d", code)
	}
	if seen := fake.seen(); len(seen) != 0 {
		t.Errorf("the server was asked: %q", seen)
	}
	for _, line := range [][]string{{"attempts", "--status", "timeout"}, {"dlq", "list", "--reason", "gone"}, {"dlq", "list", "--reason", "the state before the delete is gone"}} {
		if code, _, stderr := carillon(t, "", append(line, "--server", fake.url())...); code != exitDone {
			t.Errorf("%q: code %d, stderr %q", line, code, stderr)
		}
	}
}

func TestOutcomeCodesAreAllThatThereAre(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "match", "fhir", "record", "record.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, value)
		}
		return true
	})
	if len(want) == 0 || !slices.Equal(want, outcomeCodes) {
		t.Errorf("codes = %q\nwant    %q", outcomeCodes, want)
	}
}

func TestATokensNameIsAnArgumentOrAFlag(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, line := range []string{"token create --role admin --name ops", "token create ops --role admin", "token create --name=ops --role=admin"} {
		code, stdout, stderr := carillon(t, "", append(strings.Fields(line), "--server", fake.url())...)
		if code != exitDone || stdout != "carillon_t1_s3cret\n" {
			t.Errorf("%s: code %d, stderr %q", line, code, stderr)
		}
	}
	for _, body := range fake.bodies {
		if body != `{"name":"ops","roles":["admin"]}` {
			t.Errorf("asked for %s", body)
		}
	}
	for _, line := range []string{"token create --role admin", "token create --role admin --name=", "token create a --name b --role admin", "token create a b --role admin"} {
		if code, _, stderr := carillon(t, "", append(strings.Fields(line), "--server", fake.url())...); code != exitUsage {
			t.Errorf("%s: code %d, stderr %q", line, code, stderr)
		}
	}
	if len(fake.bodies) != 3 {
		t.Errorf("%d tokens were asked for", len(fake.bodies))
	}
}

func TestConfigCheckPrintsJSONForPrograms(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"good.yaml": "node:\n  http: 127.0.0.1:8080\n", "bad.yaml": "node:\n  http: nonsense\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, valid := range map[string]bool{"good.yaml": true, "bad.yaml": false} {
		code, stdout, stderr := carillon(t, "", "config", "check", name, "-o", "json")
		var got struct {
			File     string
			Valid    *bool
			Problems []struct{ Where, Key, Text string }
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || stderr != "" || got.File != name || got.Valid == nil || *got.Valid != valid || (code == exitDone) != valid {
			t.Errorf("%s: code %d, stdout %q, stderr %q, %v", name, code, stdout, stderr, err)
		}
		if !valid && (code != exitUsage || len(got.Problems) != 1 || got.Problems[0].Key != "node.http" || got.Problems[0].Text == "") {
			t.Errorf("%s: code %d, %+v", name, code, got)
		}
	}
	if code, stdout, _ := carillon(t, "", "config", "check", "bad.yaml", "-o", "csv"); code != exitUsage || !strings.HasPrefix(stdout, "where,key,text\n") || !strings.Contains(stdout, "node.http") {
		t.Errorf("csv: code %d, stdout %q", code, stdout)
	}
	if code, stdout, stderr := carillon(t, "", "config", "check", "none.yaml", "-o", "json"); code != exitUsage || stdout != "" || stderr == "" {
		t.Errorf("no file: code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestAReplayOfASubscriptionThatIsNotThereIsNotFound(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	fake.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		outcome(w, http.StatusNotFound, "there is no Subscription nosuch")
		return true
	}
	code, _, stderr := carillon(t, "", "dlq", "replay", "--subscription", "nosuch", "--server", fake.url())
	if code != exitNotFound || !strings.Contains(stderr, "nosuch") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}
