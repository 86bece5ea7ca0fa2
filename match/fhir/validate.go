package fhir

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rules are what a Subscription is checked against beside the standard.
type Rules struct {
	Version   Version   // of the resources that are sent; R4 if empty
	Now       time.Time // an end that is not after it is refused
	AllowHTTP bool      // endpoints may be http; otherwise only https

	// Compile says whether a criteria can be evaluated. Issues of its *Error that name no
	// element are put to Subscription.criteria. It is required.
	Compile func(criteria string) error

	// CompilePath says whether an expression can be evaluated about what a criteria finds. The
	// criteria may be one that Compile has refused. Issues are put to the extension that holds
	// the expression. It is required.
	CompilePath func(path, criteria string) error

	// Endpoint is asked about an endpoint whose form is good, such as whether its address may
	// be connected to. It may be nil.
	Endpoint func(endpoint *url.URL) error

	// PayloadSearch says whether the payload search of what a criteria finds can be answered. The
	// criteria may be one that Compile has refused. Issues are put to the extension that holds the
	// search. Where it is nil a payload search is refused.
	PayloadSearch func(search, criteria string) error

	// DeliveryClass says whether there is a deliverer of that name. Where it is nil every name is
	// refused.
	DeliveryClass func(name string) error

	// MessageSubject reports whether message channels may publish on a subject that they name
	// whole. Where it is nil they may on none.
	MessageSubject func(subject string) bool
}

// Bounds of what a Subscription may ask to be sent with every notification.
const (
	maxEndpoint    = 4096     // bytes
	maxHeaders     = 64       // lines
	maxHeaderBytes = 16 << 10 // all lines together
)

// Validate says whether a Subscription may be stored: nil, or an *Error with every issue at
// once. A Subscription that is off or in error is held to the same rules, so that switching it
// on cannot bring to light what was wrong all along; only its end may have passed. reason is
// not demanded, though R4 has it as 1..1: the servers that users come from do not.
func (s *Subscription) Validate(rules Rules) error {
	c := check{issues: slices.Clone(s.issues)}
	c.id(s.ID)
	c.status(s.Status)
	if s.Status != StatusOff && s.Status != StatusError { // one that has ended may be kept, and mirrored
		c.end(s.End, rules.Now)
	}
	c.criteria(s.Criteria, rules.Compile)
	if strings.TrimSpace(s.Path) != "" {
		if err := rules.CompilePath(s.Path, s.Criteria); err != nil {
			c.adopt(err, s.at[ExtPathCriteria])
		}
	}
	if s.DeliveryClass != "" {
		c.classChannel(s.Channel, rules)
	} else {
		c.channel(s.Channel, rules)
	}
	if s.Channel.Type == ChannelEmail {
		c.emailOptions(s)
	}
	c.delivery(s, rules)
	if len(c.issues) == 0 {
		return nil
	}
	return &Error{Issues: c.issues}
}

// check collects issues.
type check struct{ issues []Issue }

func (c *check) refuse(t IssueType, expression, format string, args ...any) {
	c.issues = append(c.issues, Issue{Type: t, Expression: expression, Diagnostics: fmt.Sprintf(format, args...)})
}

// require refuses a missing element, unless reading has already said what is wrong with it.
func (c *check) require(value, expression, format string, args ...any) bool {
	if strings.TrimSpace(value) != "" {
		return true
	}
	said := func(i Issue) bool { return i.Expression == expression }
	if !slices.ContainsFunc(c.issues, said) {
		c.refuse(IssueRequired, expression, format, args...)
	}
	return false
}

func (c *check) id(id ID) {
	switch {
	case id == "": // the server gives one
	case !id.Valid():
		c.refuse(IssueValue, "Subscription.id", "an id has 1 to 64 letters, digits, '-' and '.'")
	case id == "ingest":
		c.refuse(IssueValue, "Subscription.id", `"ingest" is reserved: dead letters of records that could not be read go by that name; choose another id`)
	}
}

func (c *check) status(s Status) {
	const at = "Subscription.status"
	if !c.require(string(s), at, "status is missing; give requested or active") {
		return
	}
	switch s {
	case StatusRequested, StatusActive, StatusError, StatusOff:
	default:
		c.refuse(IssueValue, at, "%q is no status of a Subscription; they are requested, active, error and off", clip(string(s)))
	}
}

func (c *check) end(end, now time.Time) {
	if !end.IsZero() && !end.After(now) {
		c.refuse(IssueValue, "Subscription.end", "end %s is in the past; give a later one or leave it out", end.Format(time.RFC3339))
	}
}

func (c *check) criteria(criteria string, compile func(string) error) {
	const at = "Subscription.criteria"
	if !c.require(criteria, at, "criteria is missing; give a search such as Observation?code=1234-5") {
		return
	}
	if _, query, search := strings.Cut(criteria, "?"); isURL(criteria) && search && query != "" {
		c.refuse(IssueValue, at, "a search is written without the address of a server, such as Observation?code=1234-5")
		return
	}
	if isURL(criteria) {
		c.refuse(IssueNotSupported, at, "criteria is the URL of a topic, and a topic-based Subscription is not supported by this version; write a search such as Observation?code=1234-5")
		return
	}
	if err := compile(criteria); err != nil {
		c.adopt(err, at)
	}
}

func isURL(s string) bool {
	s = strings.ToLower(s)
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "urn:")
}

// channelChecks says for each type of the standard what its endpoint and payload must be; nil for
// one that this version has not.
var channelChecks = map[string]func(*check, Channel, Rules){
	ChannelRestHook: func(c *check, ch Channel, rules Rules) {
		c.endpoint(ch.Endpoint, rules)
		c.payload(ch.Payload, rules.Version)
	},
	ChannelWebSocket: (*check).websocket,
	ChannelEmail:     (*check).email,
	ChannelSMS:       (*check).sms,
	ChannelMessage:   (*check).messageChannel,
}

// Channels lists the channel types of this build, in order.
func Channels() []string {
	var types []string
	for t, check := range channelChecks {
		if check != nil {
			types = append(types, t)
		}
	}
	slices.Sort(types)
	return types
}

func (c *check) channel(ch Channel, rules Rules) {
	const at = "Subscription.channel.type"
	if c.require(ch.Type, at, "channel.type is missing; give rest-hook") {
		switch check, known := channelChecks[ch.Type]; {
		case check != nil:
			check(c, ch, rules)
		case known:
			c.refuse(IssueNotSupported, at, "channel type %s is not supported by this version; this build has %s", ch.Type, strings.Join(Channels(), ", "))
		default:
			c.refuse(IssueValue, at, "%q is no channel type; this build has %s", clip(ch.Type), strings.Join(Channels(), ", "))
		}
	}
	c.headers(ch.Headers)
}

// endpoint checks the form of a rest-hook's address. Its text is not repeated in what is said
// about it: paths and queries often carry a key.
func (c *check) endpoint(endpoint string, rules Rules) {
	const at = "Subscription.channel.endpoint"
	if !c.require(endpoint, at, "a rest-hook needs an endpoint, an absolute URL") {
		return
	}
	before := len(c.issues)
	u, err := url.Parse(endpoint)
	switch {
	case len(endpoint) > maxEndpoint:
		c.refuse(IssueValue, at, "the endpoint is longer than %d bytes", maxEndpoint)
	case strings.HasPrefix(endpoint, "Bot/"):
		c.refuse(IssueNotSupported, at, "bots are not supported; give an absolute URL")
	case err != nil || !u.IsAbs() || u.Opaque != "":
		c.refuse(IssueValue, at, "the endpoint is not an absolute URL such as https://example.org/fhir")
	default:
		c.address(u, endpoint, rules)
	}
	if len(c.issues) > before || rules.Endpoint == nil {
		return
	}
	if err := rules.Endpoint(u); err != nil {
		c.adopt(err, at)
	}
}

func (c *check) address(u *url.URL, endpoint string, rules Rules) {
	const at = "Subscription.channel.endpoint"
	switch strings.ToLower(u.Scheme) {
	case "https":
	case "http":
		if !rules.AllowHTTP {
			c.refuse(IssueValue, at, "the endpoint is http, and this server sends only to https (delivery.egress.allow_http allows it)")
		}
	default:
		c.refuse(IssueValue, at, "the scheme of a rest-hook's endpoint must be https or http")
	}
	if u.Hostname() == "" {
		c.refuse(IssueValue, at, "the endpoint names no host")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			c.refuse(IssueValue, at, "the endpoint's port must be a number from 1 to 65535")
		}
	}
	if u.User != nil {
		c.refuse(IssueValue, at, "the endpoint holds a user name or password; put them into channel.header as Authorization")
	}
	if strings.Contains(endpoint, "#") {
		c.refuse(IssueValue, at, "the endpoint holds a fragment ('#'), which is never sent; leave it out")
	}
}

// adopt takes over what another said about an element, which it may not have named.
func (c *check) adopt(err error, at string) {
	refusal := AsError(err)
	if refusal == nil {
		c.refuse(IssueProcessing, at, "%s", err)
		return
	}
	for _, i := range refusal.Issues {
		if i.Expression == "" {
			i.Expression = at
		}
		c.issues = append(c.issues, i)
	}
}

// payload accepts what payloadType knows.
func (c *check) payload(payload string, sent Version) {
	const at = "Subscription.channel.payload"
	if strings.TrimSpace(payload) == "" {
		return
	}
	content, parameters, err := payloadType(payload)
	if content == "" {
		c.refuse(IssueValue, at, "the payload is no MIME type that this version sends; give application/fhir+json or application/fhir+xml, or leave it out for notifications without a body")
		return
	}
	if err != nil {
		c.refuse(IssueValue, at, "the parameters of the payload's MIME type cannot be read")
	}
	// A receiver that asks for a version must not get another (backport guide, MIME types).
	if v, ok := parameters["fhirversion"]; ok && v != sent.Number() && v != sent.Number()[:3] {
		c.refuse(IssueNotSupported, at, "only fhirVersion=%s can be sent", sent.Number()[:3])
	}
	if v, ok := parameters["charset"]; ok && !strings.EqualFold(v, "utf-8") {
		c.refuse(IssueNotSupported, at, "only charset=utf-8 can be sent")
	}
}

// headers checks the lines of channel.header. Values are never repeated in what is said about
// them, and a line without a name is named by its place: it may hold nothing but a token.
func (c *check) headers(lines []string) {
	const at = "Subscription.channel.header"
	total := 0
	for i, line := range lines {
		total += len(line)
		c.header(line, fmt.Sprintf("%s[%d]", at, i))
	}
	if len(lines) > maxHeaders || total > maxHeaderBytes {
		c.refuse(IssueValue, at, "at most %d headers of %d bytes in all can be sent", maxHeaders, maxHeaderBytes)
	}
}

func (c *check) header(line, at string) {
	if strings.TrimSpace(line) == "" {
		return // nothing is sent for it, as with HAPI
	}
	name, value, ok := SplitHeader(line)
	switch {
	case !ok || !validToken(name):
		c.refuse(IssueValue, at, `a header must be of the form "Name: value", with a name of letters, digits and !#$%%&'*+-.^_|~ or backquote`)
	case ReservedHeader(name):
		c.refuse(IssueValue, at, "header %s is set by this server or by the connection and cannot be given", clip(name))
	case !validFieldValue(value):
		c.refuse(IssueValue, at, "the value of header %s holds a control character", clip(name))
	}
}

// ReservedHeader reports whether a header is one of those that we send ourselves or that
// belong to the connection (RFC 9110 7.6.1) rather than to the notification.
func ReservedHeader(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range []string{"x-carillon-", "webhook-", "x-medplum-", "proxy-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "content-type", "user-agent", "x-signature", "traceparent", // ours
		"host", "content-length", "transfer-encoding", "content-encoding", "expect", // of the message
		"connection", "keep-alive", "te", "trailer", "upgrade", "http2-settings": // of the connection
		return true
	}
	return false
}

// validToken is the grammar of a field name (RFC 9110 5.6.2).
func validToken(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// validFieldValue is the grammar of a field value (RFC 9110 5.5): no control characters but
// the tab. Bytes above ASCII pass as they are.
func validFieldValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
