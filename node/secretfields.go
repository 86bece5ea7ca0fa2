package node

import (
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/node/seal"
)

// mask stands for a secret that whoever reads may not see. It is refused as a secret: a copy that
// somebody else has read, written back, would destroy what it stands for.
const mask = "(masked)"

// secretField is a place of a Subscription that holds a secret: a value of a channel header, or
// of an extension with a key for signatures.
type secretField struct {
	node  json.Node
	lead  string // what stands before the secret in the same string, such as "Authorization:"
	value string
	name  string // under which the value is sealed: the same place gives the same name
	at    string // for messages
}

var secretExtensions = []string{
	fhir.ExtMedplumSecret, fhir.ExtMedplumSecretOld, fhir.ExtMedplumSecretBare, fhir.ExtSecret,
}

// secretFields finds the secrets of a Subscription. What is not of the right form has none: it is
// refused, or was written by another release and means nothing to this one.
func secretFields(t *json.Tree, id fhir.ID) (fields []secretField) {
	root := t.Root()
	channel := t.Get(root, "channel")
	for h := range t.Children(t.Get(channel, "header")) {
		if t.Kind(h) != json.String {
			continue
		}
		name, value, ok := strings.Cut(t.Str(h), ":")
		if !ok || strings.TrimSpace(value) == "" {
			continue
		}
		fields = append(fields, secretField{
			node: h, lead: name + ":", value: value, at: "Subscription.channel.header",
			name: "Subscription/" + string(id) + "/header/" + strings.ToLower(strings.TrimSpace(name)),
		})
	}
	for _, place := range []struct {
		of json.Node
		at string
	}{{root, "Subscription.extension"}, {channel, "Subscription.channel.extension"}} {
		for x := range t.Children(t.Get(place.of, "extension")) {
			fields = append(fields, secretExtension(t, x, id, place.at)...)
		}
	}
	return fields
}

func secretExtension(t *json.Tree, x json.Node, id fhir.ID, at string) (fields []secretField) {
	url := t.Get(x, "url")
	for _, known := range secretExtensions {
		if !t.Is(url, known) {
			continue
		}
		for v := range t.Children(x) {
			if strings.HasPrefix(t.Key(v), "value") && t.Kind(v) == json.String && t.Str(v) != "" {
				fields = append(fields, secretField{node: v, value: t.Str(v), at: at, name: "Subscription/" + string(id) + "/secret"})
			}
		}
	}
	return fields
}

// isMask reports whether a value is what reads show in place of one.
func (f secretField) isMask() bool { return strings.TrimSpace(f.value) == mask }

// sealedText is the value if it is sealed, without the blank that stands before it in a header.
func (f secretField) sealedText() (string, bool) {
	text := strings.TrimPrefix(f.value, " ")
	return text, seal.IsSealed(text)
}

// put is the whole string with another value. A value that is no clear text is set off by a blank
// where something stands before it, so that the line reads as a header does.
func (f secretField) put(value string, clear bool) json.Replacement {
	if f.lead != "" && !clear {
		value = " " + value
	}
	return json.Replacement{Node: f.node, Text: f.lead + value}
}

// rewriteSecrets gives a Subscription with each of its secrets replaced by what f makes of it; the
// body itself where there are none.
func rewriteSecrets(body []byte, id fhir.ID, f func(secretField) (json.Replacement, error)) ([]byte, error) {
	t := json.Borrow()
	defer t.Release()
	if err := t.ParseStored(body); err != nil {
		return nil, err
	}
	var all []json.Replacement
	for _, field := range secretFields(t, id) {
		r, err := f(field)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return body, nil
	}
	return t.Replace(all), nil
}

// masked is a Subscription as it is shown to whoever may not see its secrets.
func masked(body []byte, id fhir.ID) ([]byte, error) {
	return rewriteSecrets(body, id, func(f secretField) (json.Replacement, error) { return f.put(mask, false), nil })
}
