package deliver_test

import (
	"testing"

	"github.com/carillon-fhir/carillon/deliver"
)

func TestAnAnswerThatRepeatsWhatItWasSentIsKeptWithoutIt(t *testing.T) {
	for _, tc := range []struct {
		name, answer, want string
		values             []string
	}{
		{"nothing of it", "no such ward", "no such ward", []string{"Bearer canary-1"}},
		{"no values", "no such ward", "no such ward", nil},
		{"the value", `you sent canary-1, canary-1`, `you sent (masked), (masked)`, []string{" canary-1"}},
		{"with its scheme", `{"Authorization":"Bearer canary-1"}`, `{"Authorization":"(masked)"}`, []string{"Bearer canary-1"}},
		{"without its scheme", "token canary-1 is unknown", "token (masked) is unknown", []string{"Bearer canary-1"}},
		{"as JSON has it", `{"k":"a\"canary"}`, `{"k":"(masked)"}`, []string{`a"canary`}},
		{"basic, decoded", "user lab:canary-1 is unknown; canary-1", "user (masked) is unknown; (masked)", []string{"Basic bGFiOmNhbmFyeS0x"}},
		{"cut off within it", "you sent canary-12", "you sent (masked)", []string{"canary-1234567890"}},
		{"one within another", "canary-1-and-more canary-1", "(masked) (masked)", []string{"canary-1", "canary-1-and-more"}},
		{"too short to be a secret", "1 of 1 refused", "1 of 1 refused", []string{"1", "of"}},
		{"shorter than any secret", "no", "no", []string{"canary-1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := deliver.Masked(tc.answer, tc.values...); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
