package resthook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// secretPrefix begins a secret of Standard Webhooks, whose rest is the key in base64.
const secretPrefix = "whsec_"

// CheckSecrets refuses secrets that could not be signed with as their receivers expect, when a
// Subscription is written. They are not repeated.
func CheckSecrets(secrets []string) *fhir.Error {
	for _, s := range secrets {
		if _, err := signingKey(s); err != nil {
			return fhir.Refuse(fhir.IssueValue, "Subscription.extension", "the secret for signatures "+err.Error())
		}
	}
	return nil
}

// signingKey is the key that a secret stands for: that of a whsec_… is its base64 decoded, any
// other secret is used as its bytes.
func signingKey(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return []byte(secret), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("begins with %s and is not base64 behind it, as Standard Webhooks has it", secretPrefix)
	}
	return key, nil
}

// signatures is the value of webhook-signature (Standard Webhooks 1.0.0): v1 for each secret, the
// newest first, and v1a by the cluster's own key where there is one. What is signed is the id, the
// time of this attempt and the body, so that neither can be changed and a replay shows its age.
func signatures(secrets []string, own ed25519.PrivateKey, id, timestamp string, body []byte) (string, error) {
	lead := id + "." + timestamp + "."
	all := make([]string, 0, len(secrets)+1)
	for _, secret := range secrets {
		key, err := signingKey(secret)
		if err != nil {
			return "", err
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(lead))
		h.Write(body)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	if own != nil {
		signed := ed25519.Sign(own, append([]byte(lead), body...))
		all = append(all, "v1a,"+base64.StdEncoding.EncodeToString(signed))
	}
	return strings.Join(all, " "), nil
}

// medplumSignature is the value of X-Signature: hex HMAC-SHA256 of the body alone, with the text of
// the secret as it stands.
func medplumSignature(secret string, body []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}
