package fhir

import "testing"

func TestRecipientsOfAMail(t *testing.T) {
	for _, c := range []struct {
		endpoint string
		want     string // joined addresses; empty: refused
	}{
		{"mailto:nurse@hospital.example", "nurse@hospital.example"},
		{"nurse@hospital.example", "nurse@hospital.example"},
		{"MAILTO:nurse@hospital.example", "nurse@hospital.example"},
		{"mailto:a@x.example, mailto:b@x.example,,", "a@x.example b@x.example"},
		{"Ward Five <ward@x.example>", "ward@x.example"},
		{"", ""},
		{",", ""},
		{"nurse", ""},
		{"http://hospital.example", ""},
		{"mailto:a@x.example?subject=Hello", ""},
		{"mailto:a%40x.example", ""},
		{"a@x.example\r\nBcc: b@x.example", ""},
		{"a@x.example\n", "a@x.example"},
		{"a@x.example b@x.example", ""},
	} {
		all, err := Recipients(c.endpoint)
		got := ""
		for i, a := range all {
			if i > 0 {
				got += " "
			}
			got += a.Address
		}
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v; want %q", c.endpoint, got, err, c.want)
		}
	}
}

func TestTheNumberOfAnSMS(t *testing.T) {
	for endpoint, want := range map[string]string{
		"tel:+4930123456": "+4930123456", "sms:+49-30-123456": "+4930123456", "+49 (30) 123.456": "+4930123456",
		"TEL:+15005550006": "+15005550006",
		"":                 "", "030123456": "", "tel:030123456": "", "+0301234567": "", "+49301": "", "+1234567890123456": "",
		"+4930123456,+4930123457": "", "tel:+4930123456;ext=1": "", "+49x30123456": "", "tel:+": "", "sms:": "",
	} {
		got, err := Telephone(endpoint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", endpoint, got, err, want)
		}
	}
}

func TestAnEmailSubscriptionMustBeOneThatCanBeSent(t *testing.T) {
	rules := Rules{Compile: func(string) error { return nil }}
	for _, c := range []struct {
		name, channel string
		at            string // of the issue; empty: accepted
	}{
		{"as HAPI has it", `{"type":"email","endpoint":"mailto:a@x.example","payload":"application/fhir+json"}`, ""},
		{"without a payload", `{"type":"email","endpoint":"a@x.example"}`, ""},
		{"with its own sender and subject", `{"type":"email","endpoint":"a@x.example","extension":[
			{"url":"` + ExtEmailFrom + `","valueString":"mailto:b@x.example"},{"url":"` + ExtEmailSubject + `","valueString":"Event ${event}"}]}`, ""},
		{"nobody to send to", `{"type":"email"}`, "Subscription.channel.endpoint"},
		{"a web address", `{"type":"email","endpoint":"https://x.example"}`, "Subscription.channel.endpoint"},
		{"a header that would make another mail of it", `{"type":"email","endpoint":"a@x.example","header":["Bcc: b@x.example"]}`, "Subscription.channel.header[0]"},
		{"a sender who is none", `{"type":"email","endpoint":"a@x.example","extension":[{"url":"` + ExtEmailFrom + `","valueString":"nobody"}]}`, "Subscription.channel.extension"},
		{"a subject with health data", `{"type":"email","endpoint":"a@x.example","extension":[{"url":"` + ExtEmailSubject + `","valueString":"${payload}"}]}`, "Subscription.channel.extension"},
		{"an SMS", `{"type":"sms","endpoint":"tel:+4930123456"}`, ""},
		{"an SMS to nobody", `{"type":"sms"}`, "Subscription.channel.endpoint"},
		{"an SMS with a resource in it", `{"type":"sms","endpoint":"tel:+4930123456","payload":"application/fhir+json"}`, "Subscription.channel.payload"},
		{"an SMS with headers", `{"type":"sms","endpoint":"tel:+4930123456","header":["X-A: b"]}`, "Subscription.channel.header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseSubscription([]byte(`{"resourceType":"Subscription","status":"active","criteria":"Patient?","channel":` + c.channel + `}`))
			if err != nil {
				t.Fatal(err)
			}
			switch e := AsError(s.Validate(rules)); {
			case c.at == "" && e != nil:
				t.Errorf("refused: %v", e)
			case c.at != "" && (e == nil || e.Issues[0].Expression != c.at):
				t.Errorf("got %v, want an issue at %s", e, c.at)
			}
		})
	}
}
