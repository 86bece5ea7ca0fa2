package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

var (
	// bcryptGrammar is the whole of a bcrypt hash. One that was cut off would be a login that
	// nobody can use.
	bcryptGrammar   = regexp.MustCompile(`^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$`)
	consumerGrammar = regexp.MustCompile(`^(messages|dead|events)/[A-Za-z0-9_-]{1,64}$`)
	// tokenGrammar is a token of a subject that is no wildcard. Ids have their '.' written '_'.
	tokenGrammar = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// logins looks at the users of the NATS listener. No value of a password is ever in a text.
func (v *validation) logins() {
	names, nkeys := map[string]bool{}, map[string]bool{}
	for i, u := range v.cfg.Security.NATS.Users {
		key := fmt.Sprintf("security.nats.users[%d]", i)
		switch {
		case u.Name == "":
			v.refuse(key+".name", "a login needs a name")
		case !nameGrammar.MatchString(u.Name):
			v.refuse(key+".name", "%q is not 1 to 64 letters, digits, - and _", u.Name)
		case names[u.Name]:
			v.refuse(key+".name", "%s is the name of another login already", u.Name)
		}
		names[u.Name] = true
		v.credentials(key, u)
		if u.NKey != "" && nkeys[u.NKey] {
			v.refuse(key+".nkey", "another login has this key already")
		}
		nkeys[u.NKey] = true
		v.permissions(key, u)
	}
}

func (v *validation) credentials(key string, u NATSUser) {
	switch {
	case u.Password != "" && u.NKey != "":
		v.refuse(key+".nkey", "a login has a password or an nkey, not both")
	case u.NKey != "":
		v.nkey(key+".nkey", u.NKey)
	case u.Password == "":
		v.refuse(key+".password", "a login needs a password or an nkey")
	case u.Password == mask:
		v.refuse(key+".password", "this is what `carillon config show` writes in place of a password; put the password here")
	case strings.HasPrefix(u.Password, "$2") && !bcryptGrammar.MatchString(u.Password):
		v.refuse(key+".password", "begins like a bcrypt hash but is not a whole one, which has 60 characters and begins $2a$, $2b$ or $2y$")
	}
}

func (v *validation) nkey(key, text string) {
	switch {
	case nkeys.IsValidPublicUserKey(text):
	case strings.HasPrefix(text, "S"): // not shown: it may be the secret half
		v.refuse(key, "this looks like a seed, which is secret; give the public key, which begins with U, and make a new pair if others have seen this file")
	default:
		v.refuse(key, "not the public key of a user: 56 characters that begin with U")
	}
}

// permissions refuses what a login cannot be given: everything outside of the subjects that
// are made for others.
func (v *validation) permissions(key string, u NATSUser) {
	for _, s := range u.Publish {
		if tokens := strings.Split(s, "."); len(tokens) != 4 || !within(tokens, "fhir", "ingest") || slices.Contains(tokens, ">") {
			v.refuse(key+".publish", "%q is not within fhir.ingest.*.*, which is fhir.ingest, a type or *, and an id or *", s)
		}
	}
	for _, s := range u.Subscribe {
		tokens := strings.Split(s, ".")
		if len(tokens) < 3 || !within(tokens, "fhir", "message") && !within(tokens, "fhir", "dead") && !within(tokens, "fhir", "event") {
			v.refuse(key+".subscribe", "%q is not within fhir.message.>, fhir.dead.> or fhir.event.>", s)
		}
	}
	for _, name := range u.Consumers {
		if !consumerGrammar.MatchString(name) {
			v.refuse(key+".consumers", "%q is not messages/NAME, dead/NAME or events/NAME", name)
		}
	}
}

// within reports whether the tokens are a subject below root, with wildcards as NATS has them.
func within(tokens []string, root ...string) bool {
	if len(tokens) <= len(root) || !slices.Equal(tokens[:len(root)], root) {
		return false
	}
	for i, t := range tokens {
		if t == "*" || t == ">" && i == len(tokens)-1 {
			continue
		}
		if !tokenGrammar.MatchString(t) {
			return false
		}
	}
	return true
}
