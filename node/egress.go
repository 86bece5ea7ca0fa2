package node

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/node/config"
)

// egress reads the rules by which an endpoint may be sent to. The same rules hold when a
// Subscription is written and when its endpoint is dialled.
func egress(cfg config.Config) (resthook.Egress, error) {
	c := cfg.Delivery.Egress
	rules := resthook.Egress{AllowHTTP: c.AllowHTTP, AllowPrivate: c.AllowPrivate}
	for _, list := range []struct {
		from []string
		to   *[]netip.Prefix
		key  string
	}{{c.Allow, &rules.Allow, "delivery.egress.allow"}, {c.Deny, &rules.Deny, "delivery.egress.deny"}} {
		for _, s := range list.from {
			p, err := config.ParseNetwork(s)
			if err != nil {
				return rules, cfg.Refuse(list.key, "%v", err)
			}
			*list.to = append(*list.to, p)
		}
	}
	return rules, nil
}

// settings reads all that says how endpoints are reached, with the files that it names.
func settings(cfg config.Config) (s resthook.Settings, err error) {
	if s.Egress, err = egress(cfg); err != nil {
		return s, err
	}
	if s.Proxy, err = proxy(cfg); err != nil {
		return s, err
	}
	for i, e := range cfg.Delivery.Endpoints {
		r, err := rule(cfg, i, e)
		if err != nil {
			return s, err
		}
		s.Rules = append(s.Rules, r)
	}
	return s, nil
}

func proxy(cfg config.Config) (*resthook.Proxy, error) {
	c := cfg.Delivery.Egress
	if c.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil {
		return nil, cfg.Refuse("delivery.egress.proxy", "not a URL")
	}
	p := &resthook.Proxy{URL: u}
	if c.ProxyCredentialsFile == "" {
		return p, nil
	}
	const key = "delivery.egress.proxy_credentials_file"
	login, err := config.ReadSecret(c.ProxyCredentialsFile)
	if err != nil {
		return nil, cfg.Refuse(key, "%v", err)
	}
	var ok bool
	if p.User, p.Password, ok = strings.Cut(login, ":"); !ok || p.User == "" {
		return nil, cfg.Refuse(key, "%s does not hold user:password", c.ProxyCredentialsFile)
	}
	return p, nil
}

// rule reads a rule of delivery.endpoints.
func rule(cfg config.Config, i int, e config.Endpoint) (r resthook.Rule, err error) {
	refuse := func(key string, err error) error {
		return cfg.Refuse(fmt.Sprintf("delivery.endpoints[%d].%s", i, key), "%v", err)
	}
	r.Matches = func(u *url.URL) bool { return config.Delivery{Endpoints: []config.Endpoint{e}}.EndpointFor(u) != nil }
	r.HTTP1 = e.HTTP2 == "off"
	if e.CA != "" {
		if r.Roots, err = config.ReadCA(e.CA); err != nil {
			return r, refuse("ca", err)
		}
	}
	if e.Cert != "" {
		pair, err := tls.LoadX509KeyPair(e.Cert, e.Key)
		if err != nil {
			return r, refuse("cert", err)
		}
		r.Certificate = &pair
	}
	switch {
	case e.Basic.User != "":
		password, err := config.ReadSecret(e.Basic.PasswordFile)
		if err != nil {
			return r, refuse("basic.password_file", err)
		}
		r.Login = resthook.Basic{User: e.Basic.User, Password: password}
	case e.OAuth2.TokenURL != "":
		o, err := oauth2Login(e.OAuth2, refuse)
		if err != nil {
			return r, err
		}
		r.Login = o.NewLogin()
	}
	return r, nil
}

func oauth2Login(c config.OAuth2, refuse func(key string, err error) error) (o resthook.OAuth2, err error) {
	o = resthook.OAuth2{TokenURL: c.TokenURL, ClientID: c.ClientID, Scopes: c.Scopes, Audience: c.Audience}
	if c.KeyFile == "" {
		if o.Secret, err = config.ReadSecret(c.SecretFile); err != nil {
			return o, refuse("oauth2.secret_file", err)
		}
		return o, nil
	}
	text, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return o, refuse("oauth2.key_file", err)
	}
	if o.Key, err = resthook.ReadClientKey(text, c.KeyID); err != nil {
		return o, refuse("oauth2.key_file", fmt.Errorf("%s %w", c.KeyFile, err))
	}
	return o, nil
}
