package fhir

import (
	"net/url"
	"regexp"
	"strings"
)

// Replication is Smile CDR's replication mode: how the ids of resources, and the references to them,
// are written for a receiver that holds them under other ids. What is to be stripped goes first.
type Replication struct {
	IDPrefix      string         // put before ids; empty: none
	Selector      *regexp.Regexp // only where it matches the whole Type/id, as it is after stripping; nil: everywhere
	StripIDPrefix string         // taken from ids that begin with it; empty: none
	StripBaseURL  string         // taken from references that begin with it; without a slash at its end; empty: none
}

// Prefixes reports whether the id of a resource gets the prefix.
func (r *Replication) Prefixes(k Key) bool {
	return r.IDPrefix != "" && (r.Selector == nil || r.Selector.MatchString(k.String()))
}

// replica is what was read of the replication options.
type replica struct {
	mode    string      // true, false, or empty where the extension is absent
	options []extension // that were given beside it
	to      Replication
}

func (r *reader) replicaMode(x extension, value string) {
	r.place(x)
	r.replica.mode = r.code(x, value, "true", "false")
}

func (r *reader) replicaPrefix(x extension, value string) {
	r.replica.option(x)
	r.replica.to.IDPrefix = r.idPrefix(x, value)
}

func (r *reader) replicaStripPrefix(x extension, value string) {
	r.replica.option(x)
	r.replica.to.StripIDPrefix = r.idPrefix(x, value)
}

func (p *replica) option(x extension) { p.options = append(p.options, x) }

// idPrefix takes what can be the beginning of an id with something after it.
func (r *reader) idPrefix(x extension, value string) string {
	if !ID(value).Valid() || len(value) == 64 {
		r.refuse(IssueValue, x.at, "extension %s: a prefix of ids has 1 to 63 letters, digits, '-' and '.'", x.url)
		return ""
	}
	return value
}

// replicaSelector takes a regular expression of Java's, as far as RE2 knows it: both write the usual
// things in the same way, and RE2's time is linear whatever is written.
func (r *reader) replicaSelector(x extension, value string) {
	r.replica.option(x)
	r.place(x)
	// By itself first: in "a)|(b" the parentheses would be those that anchor it.
	_, err := regexp.Compile(value)
	var whole *regexp.Regexp
	if err == nil {
		whole, err = regexp.Compile(`\A(?:` + value + `)\z`)
	}
	if err != nil || value == "" || len(value) > maxLine {
		r.refuse(IssueValue, x.at, "extension %s: the value must be a regular expression over Type/id such as [a-zA-Z]+/[0-9]+, at most %d bytes and without look-around, back-references or possessive quantifiers", x.url, maxLine)
		return
	}
	r.replica.to.Selector = whole
}

func (r *reader) replicaStripBase(x extension, value string) {
	r.replica.option(x)
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || len(value) > maxEndpoint {
		r.refuse(IssueValue, x.at, "extension %s: the value must be the base URL of a server, such as https://example.org/fhir", x.url)
		return
	}
	r.replica.to.StripBaseURL = strings.TrimRight(value, "/")
}

// replicate settles whether and how to replicate. Options without the mode are refused: it is
// likelier that the mode was forgotten than that the options were meant to do nothing.
func (r *reader) replicate() {
	switch r.replica.mode {
	case "true":
		r.sub.Replication = &r.replica.to
	case "":
		for _, x := range r.replica.options {
			r.refuse(IssueInvariant, x.at, "extension %s has an effect in replication mode alone; add %s with valueBoolean true", x.url, ExtReplicate)
		}
	}
}
