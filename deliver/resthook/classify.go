package resthook

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/internal/far"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// classify names the failure of a request that got no answer. The errors of net/http may quote
// what the other side sent, so none of their text is passed on; what is said instead is ours.
func classify(ctx context.Context, err error, handshake bool) *deliver.Error {
	failure := func(code record.Code, err error) *deliver.Error { return &deliver.Error{Code: code, Err: err} }
	var fault *proxyError
	switch {
	case errors.Is(err, errLogin): // first: its cause is no fault of the endpoint's, whatever it is
		return failure(record.AuthError, err)
	case errors.As(err, &fault):
		return failure(record.ProxyError, fault)
	case errors.Is(err, errBlocked):
		return &deliver.Error{Code: record.BlockedAddress, Err: blockedText(err), Permanent: true}
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return failure(record.Timeout, context.Canceled)
	case errors.Is(err, errResolve):
		return failure(record.DNSError, resolveText(err))
	case far.TimedOut(err):
		return failure(record.Timeout, describe(phase(err, handshake), err))
	case handshake, isTLS(err):
		return failure(record.TLSError, tlsText(err))
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure(record.ConnectionRefused, errors.New("connection refused"))
	case isDial(err): // no route, network down, no port left
		return failure(record.ConnectionRefused, errors.New("no connection could be made"))
	case strings.Contains(err.Error(), "server response headers exceeded"): // net/http has no type for it
		return failure(record.ResponseTooLarge, errors.New("the answer's headers are larger than 32 KiB"))
	case strings.Contains(err.Error(), "malformed HTTP"):
		return failure(record.ConnectionReset, errors.New("the answer is not HTTP"))
	}
	return failure(record.ConnectionReset, errors.New("the connection ended before an answer"))
}

func phase(err error, handshake bool) string {
	switch {
	case handshake:
		return "no TLS handshake in time"
	case isDial(err):
		return "no connection in time"
	}
	return "no answer in time"
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isTLS(err error) bool { return far.IsTLS(err) || turnedAway(err) }

// turnedAway reports whether the other side ended TLS just after the handshake, as it does with
// TLS 1.3 when it wants another client certificate than it was shown.
func turnedAway(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" ||
		strings.Contains(err.Error(), "http2: client conn could not be established") // net/http has no type for it
}

// tlsText keeps what helps an operator. What the certificate is wrong in comes first: a server whose
// certificate we refuse hears of it, and may end the connection on its part.
func tlsText(err error) error {
	var verify *tls.CertificateVerificationError
	if !errors.As(err, &verify) && turnedAway(err) {
		return errors.New("the TLS handshake failed: the endpoint ended it, perhaps for want of a client certificate that it knows")
	}
	return far.TLSFault(err)
}

func resolveText(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return errors.New("no such host")
	}
	if far.TimedOut(err) {
		return errors.New("the host name was not resolved in time")
	}
	return errResolve
}

// blockedText is our own sentence, found under the wrapping of net and net/http.
func blockedText(err error) error {
	var op *net.OpError
	for errors.As(err, &op) {
		err = op.Err
	}
	return err
}

// clean makes the beginning of an answer fit for a record: valid UTF-8 without control
// characters, short.
func clean(b []byte) string {
	var s strings.Builder
	for len(b) > 0 && s.Len() < maxResponse {
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		switch {
		case r == utf8.RuneError && n <= 1:
			r = '?'
		case !unicode.IsPrint(r):
			r = ' '
		}
		if s.Len()+utf8.RuneLen(r) > maxResponse {
			break
		}
		s.WriteRune(r)
	}
	return strings.TrimSpace(s.String())
}
