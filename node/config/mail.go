package config

import (
	"net"
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/deliver/email"
	"github.com/carillon-fhir/carillon/deliver/sms"
)

// Email says how mail is sent. Without a server there is no email channel.
type Email struct {
	Server       string        `yaml:"server"`        // host:port of the SMTP server
	TLS          string        `yaml:"tls"`           // "starttls", "tls" or "none"
	CA           string        `yaml:"ca"`            // PEM file of a private authority
	User         string        `yaml:"user"`          // empty: no login
	PasswordFile string        `yaml:"password_file"` // read at every connection
	From         string        `yaml:"from"`          // where a Subscription does not say
	Subject      string        `yaml:"subject"`       // template, where a Subscription does not say
	Body         string        `yaml:"body"`          // template
	Connections  int           `yaml:"connections"`   // open at once
	Timeout      time.Duration `yaml:"timeout"`       // of a whole attempt
}

// Options are those of the channel.
func (e Email) Options(version string) email.Options {
	return email.Options{
		Server: e.Server, Security: email.Security(e.TLS), CA: e.CA, User: e.User, PasswordFile: e.PasswordFile,
		From: e.From, Subject: e.Subject, Body: e.Body, Connections: e.Connections, Version: version,
	}
}

// SMS says how short messages are sent. Without a preset there is no sms channel.
type SMS struct {
	Gateway     Gateway       `yaml:"gateway"`
	Text        string        `yaml:"text"`        // template of the message
	Connections int           `yaml:"connections"` // requests at once
	Timeout     time.Duration `yaml:"timeout"`     // of a whole attempt
}

// Gateway is who sends short messages for us, and how it is asked. Empty keys are the preset's.
type Gateway struct {
	Preset       string `yaml:"preset"` // "twilio", "kannel" or "custom"; empty: no sms
	URL          string `yaml:"url"`
	Method       string `yaml:"method"`
	Query        string `yaml:"query"`
	ContentType  string `yaml:"content_type"`
	Body         string `yaml:"body"`
	Basic        bool   `yaml:"basic"` // the login goes into an Authorization header
	CA           string `yaml:"ca"`
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
	From         string `yaml:"from"`
}

// Options are those of the channel.
func (s SMS) Options(version string) sms.Options {
	g := s.Gateway
	return sms.Options{
		Preset:  sms.Preset(g.Preset),
		Gateway: sms.Gateway{URL: g.URL, Query: g.Query, Method: g.Method, ContentType: g.ContentType, Body: g.Body, Basic: g.Basic},
		CA:      g.CA, User: g.User, PasswordFile: g.PasswordFile, From: g.From, Text: s.Text, Connections: s.Connections, Version: version,
	}
}

// Configured reports whether a channel type that needs a server of the operator's has one. The
// others need none.
func (d Delivery) Configured(channel string) bool {
	switch channel {
	case email.Type:
		return d.Email.Server != ""
	case sms.Type:
		return d.SMS.Gateway.Preset != ""
	}
	return true
}

// messages looks at the channels that go through a server of the operator's. What a file holds
// that is named here is looked at when the node starts.
func (v *validation) messages() {
	d := v.cfg.Delivery
	if d.Configured(email.Type) && (slices.Contains(d.Channels, email.Type) || len(d.OperatorEvents.Email.To) > 0) {
		v.email(d.Email)
	}
	if d.Configured(sms.Type) && slices.Contains(d.Channels, sms.Type) {
		v.between("delivery.sms.timeout", d.SMS.Timeout, 100*time.Millisecond, 2*time.Minute)
		v.count("delivery.sms.connections", d.SMS.Connections, 1, 256)
		o := d.SMS.Options("")
		o.CA = ""
		if _, err := sms.New(o); err != nil {
			v.refuse("delivery.sms", "%v", err)
		}
		v.login("delivery.sms.gateway", d.SMS.Gateway.User, d.SMS.Gateway.PasswordFile)
	}
}

func (v *validation) email(e Email) {
	v.oneOf("delivery.email.tls", e.TLS, "starttls", "tls", "none")
	v.between("delivery.email.timeout", e.Timeout, 100*time.Millisecond, 2*time.Minute)
	v.count("delivery.email.connections", e.Connections, 1, 256)
	if _, _, err := net.SplitHostPort(e.Server); err != nil {
		v.refuse("delivery.email.server", "%q is not host:port", e.Server)
		return
	}
	o := e.Options("")
	o.CA = ""
	if _, err := email.New(o); err != nil {
		v.refuse("delivery.email", "%v", err)
	}
	v.login("delivery.email", e.User, e.PasswordFile)
}

// login refuses one half of a login.
func (v *validation) login(section, user, file string) {
	if (user == "") != (file == "") {
		v.refuse(section+".password_file", "user and password_file go together")
	}
}
