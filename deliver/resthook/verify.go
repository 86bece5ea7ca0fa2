package resthook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is how far the time of an attempt may be from a receiver's clock.
const Tolerance = 5 * time.Minute

// Verify checks a notification as its receiver does, by the secret that both know: by
// webhook-signature (Standard Webhooks), and by X-Signature, each where it is there. One of them
// must be.
func Verify(secret string, h http.Header, body []byte, now time.Time) error {
	standard, medplum := h.Get("Webhook-Signature"), h.Get("X-Signature")
	if standard == "" && medplum == "" {
		return errors.New("there is no signature")
	}
	if medplum != "" && !hmac.Equal([]byte(medplum), []byte(medplumSignature(secret, body))) {
		// While a secret is replaced X-Signature is by the newer one alone.
		if standard == "" {
			return errors.New("X-Signature is of another secret or another body")
		}
	}
	if standard == "" {
		return nil
	}
	return verifyStandard(secret, h, body, now)
}

func verifyStandard(secret string, h http.Header, body []byte, now time.Time) error {
	seconds, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil {
		return errors.New("webhook-timestamp is no number of seconds")
	}
	if off := now.Sub(time.Unix(seconds, 0)); off > Tolerance || off < -Tolerance {
		return fmt.Errorf("webhook-timestamp is %s off: a replay, or a wrong clock", off.Round(time.Second))
	}
	key, err := signingKey(secret)
	if err != nil {
		return fmt.Errorf("the secret %w", err)
	}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(h.Get("Webhook-Id") + "." + h.Get("Webhook-Timestamp") + "."))
	m.Write(body)
	want := "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
	for one := range strings.SplitSeq(h.Get("Webhook-Signature"), " ") {
		if hmac.Equal([]byte(one), []byte(want)) {
			return nil
		}
	}
	return errors.New("webhook-signature is of another secret, id, time or body")
}
