package json_test

import (
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

func TestWhatIsNotChangedStaysByteForByte(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"the only member", `{ "a" : { "x":1.50 } , "b":"y"}`, `{ "a" : { } , "b":"new"}`},
		{"the first", `{"a":{"x" : 1 , "z":1.0e2},"b" : "y"}`, `{"a":{ "z":1.0e2},"b" : "new"}`},
		{"one in the middle", `{"a":{"q":[1,2] , "x":1,"z":2},"b":"y"}`, `{"a":{"q":[1,2],"z":2},"b":"new"}`},
		{"the last", `{"a":{"q":"\u00e4", "x":1 },"b":"y"}`, `{"a":{"q":"\u00e4" },"b":"new"}`},
		{"with a key in escapes", `{"a":{"\u0078":1,"\u007a":2},"b":"y"}`, `{"a":{"\u007a":2},"b":"new"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := new(json.Tree)
			if err := tree.Parse([]byte(test.body), json.Limits{}); err != nil {
				t.Fatal(err)
			}
			a := tree.Get(tree.Root(), "a")
			c := tree.Change()
			c.SetString(tree.Get(tree.Root(), "b"), "new")
			c.Remove(a, tree.Get(a, "x"))
			if got := string(c.Bytes()); got != test.want || c.Len() != 2 {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
