package deliver

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

// maskedMin is the length from which a value is taken for a secret. What is shorter ("1", "true") is
// in many answers, and masking it would leave nothing to be read.
const maskedMin = 6

// Masked is an answer without the values that the request was sent with: an endpoint that answers
// with what it was sent, as many do while they are tried out, must not have secrets written into the
// log of outcomes, where they stay when their Subscription is deleted. A value is recognised as it
// stands, as a JSON string has it, behind the scheme of an Authorization header, as the user and
// password of Basic, and where the answer was cut off within it.
func Masked(answer string, values ...string) string {
	if len(answer) < maskedMin {
		return answer
	}
	var all []string
	for _, v := range values {
		all = append(all, spellings(v)...)
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // a part must not spoil the whole
	for _, s := range all {
		answer = strings.ReplaceAll(answer, s, mask)
	}
	for _, s := range all {
		answer = maskedEnd(answer, s)
	}
	return answer
}

const mask = "(masked)"

// spellings are the texts in which a value may come back.
func spellings(value string) (out []string) {
	add := func(s string) {
		if s = strings.TrimSpace(s); len(s) >= maskedMin {
			out = append(out, s)
		}
	}
	value = strings.TrimSpace(value)
	add(value)
	if quoted, err := json.Marshal(value); err == nil {
		add(string(quoted[1 : len(quoted)-1]))
	}
	scheme, credentials, ok := strings.Cut(value, " ")
	if !ok {
		return out
	}
	add(credentials)
	if strings.EqualFold(scheme, "Basic") {
		login, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credentials))
		if err == nil {
			add(string(login))
			_, password, _ := strings.Cut(string(login), ":")
			add(password)
		}
	}
	return out
}

// maskedEnd masks the beginning of a value at the end of an answer, of which only so much is kept.
func maskedEnd(answer, value string) string {
	for n := min(len(value)-1, len(answer)); n >= maskedMin; n-- {
		if rest, ok := strings.CutSuffix(answer, value[:n]); ok {
			return rest + mask
		}
	}
	return answer
}
