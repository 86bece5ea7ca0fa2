package config

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Endpoint is what an operator says of the endpoints of some hosts, whatever the Subscriptions
// that name them say: how much they bear, and how we make ourselves known there.
type Endpoint struct {
	// Match is the host that the rule is for, with a port (lab.example.org:8443) or without
	// (then any port): a name, an address, *.example.org for all names below one, or * for all.
	Match       string        `yaml:"match"`
	Concurrency int           `yaml:"concurrency"` // requests of all Subscriptions out at once; 0: no limit of its own
	Rate        float64       `yaml:"rate"`        // requests a second; 0: no limit
	Timeout     time.Duration `yaml:"timeout"`     // of a whole attempt; 0: delivery.rest_hook.timeout
	HTTP2       string        `yaml:"http2"`       // "off" keeps to HTTP/1.1; "auto" or empty: as the endpoint likes
	// CA is a PEM file of the authorities that its certificate may be signed by, in place of the
	// system's. Cert and Key are the PEM files of our client certificate.
	CA     string `yaml:"ca"`
	Cert   string `yaml:"cert"`
	Key    string `yaml:"key"`
	Basic  Basic  `yaml:"basic"`
	OAuth2 OAuth2 `yaml:"oauth2"`
}

// Basic is a login by HTTP's basic authentication. It is empty, or both are given.
type Basic struct {
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"` // holds the password in one line
}

// OAuth2 says where an access token is had (client credentials grant, RFC 6749 4.4), and by what:
// a secret, or an assertion signed with a private key (SMART Backend Services).
type OAuth2 struct {
	TokenURL   string   `yaml:"token_url"`
	ClientID   string   `yaml:"client_id"`
	SecretFile string   `yaml:"secret_file"` // holds the client's secret in one line
	KeyFile    string   `yaml:"key_file"`    // PEM: an RSA key signs RS384, one of P-384 ES384
	KeyID      string   `yaml:"key_id"`      // as the server knows the key; empty: its thumbprint (RFC 7638)
	Scopes     []string `yaml:"scopes"`
	Audience   string   `yaml:"audience"` // of the token, where the server wants one named
}

// EndpointFor is the first rule for an endpoint; nil where there is none.
func (d Delivery) EndpointFor(u *url.URL) *Endpoint {
	for i := range d.Endpoints {
		if d.Endpoints[i].matches(u) {
			return &d.Endpoints[i]
		}
	}
	return nil
}

func (e Endpoint) matches(u *url.URL) bool {
	pattern, port := splitMatch(e.Match)
	if port != "" && port != cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]) {
		return false
	}
	host := hostName(u.Hostname())
	if pattern == "*" {
		return host != ""
	}
	if below, isGlob := strings.CutPrefix(pattern, "*."); isGlob {
		return strings.HasSuffix(host, "."+below)
	}
	return host == pattern
}

// splitMatch takes the port off a pattern; empty where it has none.
func splitMatch(match string) (host, port string) {
	if h, p, err := net.SplitHostPort(match); err == nil {
		return hostName(h), p
	}
	return hostName(strings.TrimSuffix(strings.TrimPrefix(match, "["), "]")), ""
}

// hostName is a host as it is compared: names in small letters, addresses in one form.
func hostName(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// files lists the paths that a rule names.
func (e *Endpoint) files() []*string {
	return []*string{&e.CA, &e.Cert, &e.Key, &e.Basic.PasswordFile, &e.OAuth2.SecretFile, &e.OAuth2.KeyFile}
}

// fileKeys are the keys of files, in the same order.
var fileKeys = []string{"ca", "cert", "key", "basic.password_file", "oauth2.secret_file", "oauth2.key_file"}

// eachEndpointFile calls f for every path that the rules name.
func (c *Config) eachEndpointFile(f func(key string, path *string)) {
	for i := range c.Delivery.Endpoints {
		for j, path := range c.Delivery.Endpoints[i].files() {
			f(fmt.Sprintf("delivery.endpoints[%d].%s", i, fileKeys[j]), path)
		}
	}
}

func (v *validation) endpoints() {
	seen := map[string]bool{}
	for i, e := range v.cfg.Delivery.Endpoints {
		key := fmt.Sprintf("delivery.endpoints[%d]", i)
		v.match(key+".match", e.Match)
		if seen[e.Match] {
			v.refuse(key+".match", "%s has a rule already; the first one holds", e.Match)
		}
		seen[e.Match] = true
		v.count(key+".concurrency", e.Concurrency, 0, 4096)
		if !(e.Rate >= 0 && e.Rate <= math.MaxInt32) { // a NaN is refused too
			v.refuse(key+".rate", "%g is not a number of requests a second; 0 is no limit", e.Rate)
		}
		if e.Timeout != 0 {
			v.between(key+".timeout", e.Timeout, 100*time.Millisecond, 2*time.Minute)
		}
		v.oneOf(key+".http2", cmp.Or(e.HTTP2, "auto"), "auto", "off")
		v.pair(key, TLS{Cert: e.Cert, Key: e.Key})
		v.basic(key+".basic", e.Basic)
		v.oauth2(key+".oauth2", e.OAuth2)
		if e.Basic.User != "" && e.OAuth2.TokenURL != "" {
			v.refuse(key+".oauth2", "both basic and oauth2 would set the Authorization header; leave one out")
		}
	}
}

func (v *validation) match(key, match string) {
	host, port := splitMatch(match)
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			v.refuse(key, "%q has no port between 1 and 65535", match)
			return
		}
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "*" {
		return
	}
	name := strings.TrimPrefix(host, "*.")
	valid := name != "" && !strings.Contains(name, "..") && !strings.HasPrefix(name, ".")
	for _, c := range name {
		valid = valid && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_')
	}
	if !valid {
		v.refuse(key, "%q is no host, host:port, *.example.org or *", match)
	}
}

func (v *validation) basic(key string, b Basic) {
	switch {
	case b == Basic{}:
	case b.User == "":
		v.refuse(key+".user", "a login needs a user")
	case strings.Contains(b.User, ":") || strings.IndexFunc(b.User, func(r rune) bool { return r < ' ' }) >= 0:
		v.refuse(key+".user", "a user of basic authentication has no colon and no control character")
	case b.PasswordFile == "":
		v.refuse(key+".password_file", "a login needs the file of its password")
	}
}

func (v *validation) oauth2(key string, o OAuth2) {
	if reflect.ValueOf(o).IsZero() {
		return
	}
	switch {
	case o.TokenURL == "":
		v.refuse(key+".token_url", "an access token needs the URL where it is had")
	default:
		v.tokenURL(key+".token_url", o.TokenURL)
	}
	if o.ClientID == "" {
		v.refuse(key+".client_id", "an access token needs the client that asks for it")
	}
	switch {
	case o.SecretFile == "" && o.KeyFile == "":
		v.refuse(key, "a client needs secret_file, or key_file with the private key of its assertions")
	case o.SecretFile != "" && o.KeyFile != "":
		v.refuse(key, "a client has secret_file or key_file, not both")
	case o.KeyID != "" && o.KeyFile == "":
		v.refuse(key+".key_id", "a key_id is of a key_file, and there is none")
	}
}

// tokenURL may have a query, unlike the URLs that others are made from.
func (v *validation) tokenURL(key, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		v.refuse(key, "not an absolute http or https URL without user and fragment") // not shown: it may hold a password
	}
}

// proxy looks at the egress proxy.
func (v *validation) proxy(e Egress) {
	const key = "delivery.egress.proxy"
	if e.Proxy == "" {
		if e.ProxyCredentialsFile != "" {
			v.refuse("delivery.egress.proxy_credentials_file", "there is no proxy in %s to log in at", key)
		}
		return
	}
	u, err := url.Parse(e.Proxy)
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
		v.refuse(key, "not a URL such as http://proxy.example.org:3128; the schemes are http, https and socks5") // not shown: it may hold a password
	case u.User != nil:
		v.refuse(key, "a URL here must not hold a user or password; put user:password into the file of delivery.egress.proxy_credentials_file")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		v.refuse(key, "the URL of a proxy is scheme, host and port")
	}
}

// secretsKeys looks at the master keys. No value is ever in a text.
func (v *validation) secretsKeys() {
	s := v.cfg.Security
	if len(s.SecretsKey) > 0 && s.SecretsKeyFile != "" {
		v.refuse("security.secrets_key_file", "the keys stand in security.secrets_key already; give one of the two")
	}
	for _, text := range s.SecretsKey {
		if text == mask {
			v.refuse("security.secrets_key", "this is what `carillon config show` writes in place of a key; put the key here")
			return
		}
	}
	if _, err := parseKeys(s.SecretsKey); err != nil {
		v.refuse("security.secrets_key", "%v", err)
	}
}

// keySize is the length of a master key, in bytes: that of AES-256.
const keySize = 32

// SecretsKeys reads the master keys by which secrets are sealed at rest, from the configuration or
// from the file that it names: the first seals, all open. Without either there are none.
func (s Security) SecretsKeys() ([][]byte, error) {
	if s.SecretsKeyFile == "" {
		return parseKeys(s.SecretsKey)
	}
	text, err := os.ReadFile(s.SecretsKeyFile)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s holds no key", s.SecretsKeyFile)
	}
	keys, err := parseKeys(lines)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.SecretsKeyFile, err)
	}
	return keys, nil
}

func parseKeys(list []string) ([][]byte, error) {
	var keys [][]byte
	for i, text := range list {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("key %d is not the base64 form of %d bytes; `openssl rand -base64 %d` makes one", i+1, keySize, keySize)
		}
		if slices.ContainsFunc(keys, func(k []byte) bool { return string(k) == string(key) }) {
			return nil, fmt.Errorf("key %d is there twice", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// showEndpoints writes the rules. They hold no secrets, only names of files that do.
func (c Config) showEndpoints(b *strings.Builder) {
	if len(c.Delivery.Endpoints) == 0 {
		return
	}
	b.WriteString("  endpoints:\n")
	for _, e := range c.Delivery.Endpoints {
		lead := "- "
		showFields(b, reflect.ValueOf(e), func(line string) {
			b.WriteString("    " + lead + line)
			lead = "  "
		}, "")
	}
}

// showFields writes what is set of a struct; of a section in it as a nested mapping.
func showFields(b *strings.Builder, v reflect.Value, write func(line string), indent string) {
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		switch field := v.Field(i); {
		case field.IsZero():
		case isSection(field.Type()):
			write(indent + name + ":\n")
			showFields(b, field, write, indent+"  ")
		default:
			write(indent + name + ": " + textOf(field) + "\n")
		}
	}
}
