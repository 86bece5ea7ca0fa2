package fhir

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// honouring is how an extension is read.
type honouring struct {
	types   []string // the forms that its value may come in
	repeats bool     // it may be given more than once; else a second one must say the same
	read    func(r *reader, x extension, value string)
}

// The forms of values: the typed element, and the string that the products' documents show.
var (
	aString  = []string{"valueString"}
	aCode    = []string{"valueCode", "valueString"}
	aBoolean = []string{"valueBoolean", "valueString"}
	aNumber  = []string{"valueInteger", "valuePositiveInt", "valueUnsignedInt", "valueString"}
	aURL     = []string{"valueString", "valueUri", "valueUrl"}
)

// honoured lists the extensions that are honoured, by their URL.
var honoured = map[string]honouring{
	ExtSupportedInteraction: {aCode, true, (*reader).interaction},
	ExtMaxAttempts:          {aNumber, false, func(r *reader, x extension, v string) { r.sub.Attempts = r.integer(x, v, 1, 18) }},
	ExtPathCriteria:         {aString, false, text(func(s *Subscription) *string { return &s.Path }, "the expression")},
	ExtSuccessCodes:         {aString, false, (*reader).successCodes},
	ExtAuditDestination:     {aCode, true, (*reader).auditDestination},
	ExtMedplumSecret:        {aString, true, (*reader).secret},
	ExtMedplumSecretOld:     {aString, true, (*reader).secret},
	ExtMedplumSecretBare:    {aString, true, (*reader).secret},

	ExtSendDelete: {aBoolean, false, flag(func(s *Subscription) *bool { return &s.SendDelete })},
	ExtRetryCount: {aNumber, false, func(r *reader, x extension, v string) {
		r.hapiTry = max(1, r.integer(x, v, 0, math.MaxInt32))
	}},
	ExtPayloadSearch: {aString, false, text(func(s *Subscription) *string { return &s.PayloadSearch }, "the search")},
	ExtStripVersion:  {aBoolean, false, flag(func(s *Subscription) *bool { return &s.StripVersion })},
	ExtLatestVersion: {aBoolean, false, flag(func(s *Subscription) *bool { return &s.LatestVersion })},
	ExtEmailFrom:     {aURL, false, line(func(s *Subscription) *string { return &s.EmailFrom }, "the sender")},
	ExtEmailSubject:  {aString, false, line(func(s *Subscription) *string { return &s.EmailSubject }, "the subject")},

	ExtCrossPartition:       {aBoolean, false, flag(func(s *Subscription) *bool { return &s.CrossPartition })},
	ExtReplicate:            {aBoolean, false, (*reader).replicaMode},
	ExtReplicatePrefix:      {aString, false, (*reader).replicaPrefix},
	ExtReplicateSelector:    {aString, false, (*reader).replicaSelector},
	ExtReplicateStripPrefix: {aString, false, (*reader).replicaStripPrefix},
	ExtReplicateStripBase:   {aURL, false, (*reader).replicaStripBase},
	ExtDeliveryClass:        {aString, false, line(func(s *Subscription) *string { return &s.DeliveryClass }, "the name")},
	ExtNamedChannel:         {aString, false, (*reader).namedChannel},

	ExtRestHookStyle: {aCode, false, func(r *reader, x extension, v string) {
		r.sub.Style = Style(r.code(x, v, string(StyleFHIR), string(StyleWebhook)))
		r.place(x)
	}},
	ExtOrder: {aCode, false, func(r *reader, x extension, v string) {
		r.sub.Order = Order(r.code(x, v, string(OrderResource), string(OrderStrict)))
	}},
	ExtSecret: {aString, true, (*reader).secret},
	ExtMessageEnvelope: {aCode, false, func(r *reader, x extension, v string) {
		r.sub.Envelope = Envelope(r.code(x, v, string(EnvelopePlain), string(EnvelopeHAPI)))
		r.place(x)
	}},
}

// text reads a string that must say something.
func text(field func(*Subscription) *string, what string) func(*reader, extension, string) {
	return func(r *reader, x extension, value string) {
		if strings.TrimSpace(value) == "" {
			r.refuse(IssueValue, x.at, "extension %s: %s is empty", x.url, what)
		}
		r.place(x)
		*field(r.sub) = value
	}
}

// maxLine bounds a text that goes into a header of a message or names something.
const maxLine = 1000

// line reads a text of one line: a second one could become a header of the message.
func line(field func(*Subscription) *string, what string) func(*reader, extension, string) {
	filled := text(field, what)
	return func(r *reader, x extension, value string) {
		switch {
		case strings.ContainsFunc(value, isControl):
			r.refuse(IssueValue, x.at, "extension %s: %s holds a control character", x.url, what)
		case len(value) > maxLine:
			r.refuse(IssueValue, x.at, "extension %s: %s is longer than %d bytes", x.url, what, maxLine)
		}
		filled(r, x, value)
	}
}

func isControl(c rune) bool {
	return c < ' ' || c == 0x7f || c == '\u2028' || c == '\u2029' || c == '\u0085'
}

// flag reads a yes or no.
func flag(field func(*Subscription) *bool) func(*reader, extension, string) {
	return func(r *reader, x extension, value string) {
		r.place(x)
		*field(r.sub) = r.code(x, value, "true", "false") == "true"
	}
}

// place remembers where an extension stands, for what is said about it later.
func (r *reader) place(x extension) {
	if r.sub.at == nil {
		r.sub.at = map[string]string{}
	}
	r.sub.at[x.url] = x.at
}

func (r *reader) interaction(x extension, value string) {
	switch i := Interaction(value); {
	case i != Create && i != Update && i != Delete:
		r.refuse(IssueValue, x.at, "extension %s: the value must be create, update or delete", x.url)
	case !slices.Contains(r.sub.Interactions, i):
		r.sub.Interactions = append(r.sub.Interactions, i)
	}
}

func (r *reader) auditDestination(x extension, value string) {
	if r.code(x, value, AuditResource, AuditLog) != "" && !slices.Contains(r.sub.AuditTo, value) {
		r.sub.AuditTo = append(r.sub.AuditTo, value)
	}
}

// The destinations of AuditEvents.
const (
	AuditResource = "resource" // found by GET AuditEvent
	AuditLog      = "log"      // one JSON line in the log
)

// Bounds of what a Subscription may ask to be signed with: each is a header of every request.
const (
	maxSecrets     = 4
	maxSecretBytes = 1024
)

// secret never repeats what it reads.
func (r *reader) secret(x extension, value string) {
	s := r.sub
	r.place(x)
	switch {
	case value == "":
		r.refuse(IssueValue, x.at, "extension %s: the secret is empty", x.url)
	case len(value) > maxSecretBytes:
		r.refuse(IssueValue, x.at, "extension %s: the secret is longer than %d bytes", x.url, maxSecretBytes)
	case slices.Contains(s.Secrets, value): // in another of its spellings
	case len(s.Secrets) == maxSecrets:
		r.refuse(IssueValue, x.at, "extension %s: at most %d secrets can be in use at once; leave out the oldest", x.url, maxSecrets)
	default:
		s.Secrets = append(s.Secrets, value)
	}
}

// StatusRange is a range of HTTP statuses, both ends included.
type StatusRange struct{ From, To int }

// maxRanges bounds a list of success codes; there are not many more statuses in use.
const maxRanges = 100

// successCodes reads Medplum's list, such as 200-399,404. Medplum itself falls back to its default
// where a part cannot be read, unless one before it fits already; here that is refused.
func (r *reader) successCodes(x extension, value string) {
	ranges, ok := parseRanges(value)
	if !ok {
		r.refuse(IssueValue, x.at, "extension %s: the value must be a list of HTTP statuses and ranges of them, such as 200-399,404", x.url)
		return
	}
	r.place(x)
	r.sub.SuccessCodes = ranges
}

func parseRanges(list string) (ranges []StatusRange, ok bool) {
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, fromOK := httpStatus(low)
		to, toOK := httpStatus(high)
		if !fromOK || !toOK || from > to || len(ranges) == maxRanges {
			return nil, false
		}
		ranges = append(ranges, StatusRange{from, to})
	}
	return ranges, true
}

// httpStatus reads a status of three digits (RFC 9110 15). One beyond 599 is never sent and may end a range.
func httpStatus(s string) (int, bool) {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && len(s) == 3 && n >= 100
}

// Delivered reports whether an HTTP status means that the receiver took a notification: 200 to
// 299, or what the Subscription's success codes list, which then decide alone.
func (s *Subscription) Delivered(status int) bool {
	if s == nil || len(s.SuccessCodes) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.ContainsFunc(s.SuccessCodes, func(c StatusRange) bool { return c.From <= status && status <= c.To })
}

// maxName is the length that a queue's name may have.
const maxName = 64

// namedChannel takes a name that can be a part of a subject.
func (r *reader) namedChannel(x extension, value string) {
	if !validName(value) {
		r.refuse(IssueValue, x.at, "extension %s: the name must be 1 to %d letters, digits, '-' and '_'", x.url, maxName)
	}
	r.place(x)
	r.sub.NamedChannel = value
}

// delivery checks what only the server can say about the extensions.
func (c *check) delivery(s *Subscription, rules Rules) {
	if strings.TrimSpace(s.PayloadSearch) != "" {
		if at := s.at[ExtPayloadSearch]; rules.PayloadSearch == nil {
			c.refuse(IssueNotSupported, at, "extension %s: there is no search here", ExtPayloadSearch)
		} else if err := rules.PayloadSearch(s.PayloadSearch, s.Criteria); err != nil {
			c.adopt(err, at)
		}
	}
	if s.DeliveryClass != "" {
		if at := s.at[ExtDeliveryClass]; rules.DeliveryClass == nil {
			c.refuse(IssueNotSupported, at, "extension %s: there are no deliverers of one's own here, and Java classes cannot be run; leave the extension out", ExtDeliveryClass)
		} else if err := rules.DeliveryClass(s.DeliveryClass); err != nil {
			c.adopt(err, at)
		}
	}
}

// Doubts are warnings about a Subscription that may be stored: extensions that are understood and
// have no effect on what this one sends.
func (s *Subscription) Doubts() (warnings []Issue) {
	warn := func(ext, why string) {
		if at, given := s.at[ext]; given {
			warnings = append(warnings, Issue{Type: IssueProcessing, Expression: at, Diagnostics: "extension " + ext + " has no effect: " + why})
		}
	}
	if s.Channel.Type != ChannelEmail {
		warn(ExtEmailFrom, "the channel is not email")
		warn(ExtEmailSubject, "the channel is not email")
	}
	if s.Channel.Type != ChannelMessage && s.NamedChannel == "" {
		warn(ExtMessageEnvelope, "the channel is not message")
	}
	if s.Channel.Type == ChannelWebSocket && s.NamedChannel == "" {
		for _, ext := range []string{ExtPayloadSearch, ExtStripVersion, ExtLatestVersion, ExtReplicate} {
			warn(ext, "a websocket's ping carries no resource")
		}
	}
	if s.Channel.Type == ChannelSMS && s.NamedChannel == "" {
		for _, ext := range []string{ExtPayloadSearch, ExtStripVersion, ExtLatestVersion, ExtReplicate} {
			warn(ext, "an SMS carries no resource")
		}
	}
	if s.Channel.Type != ChannelRestHook || s.DeliveryClass != "" {
		warn(ExtRestHookStyle, "requests have a style, and only a rest-hook makes some")
		warn(ExtSuccessCodes, "the Subscription's channel has no HTTP statuses to tell")
		for _, ext := range []string{ExtSecret, ExtMedplumSecret, ExtMedplumSecretOld, ExtMedplumSecretBare} {
			warn(ext, "only what a rest-hook sends is signed")
		}
	}
	for _, x := range s.unknown {
		warnings = append(warnings, Issue{Type: IssueProcessing, Expression: x.at, Diagnostics: "extension " + clip(x.url) + " has no effect: it is not known here. Is it misspelt?"})
	}
	if s.CrossPartition {
		warn(ExtCrossPartition, "there are no partitions here, and every Subscription hears the whole")
	}
	if s.Replication != nil && s.Replication.IDPrefix == "" {
		warn(ExtReplicateSelector, "there is no "+ExtReplicatePrefix)
	}
	return warnings
}
