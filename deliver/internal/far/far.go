// Package far has what channels share that speak to a server over the network: the names of its
// failures, and what of its answers may be kept.
package far

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Fault names a failure of the network below a protocol; nil for one that is none. Nothing of the
// error's own text is passed on: it may quote what the other side sent.
func Fault(ctx context.Context, err error) *deliver.Error {
	fault := func(code record.Code, cause error) *deliver.Error { return &deliver.Error{Code: code, Err: cause} }
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return fault(record.Timeout, context.Canceled)
	case errors.As(err, &dns):
		return fault(record.DNSError, errors.New("the server's name cannot be resolved"))
	case ctx.Err() != nil, TimedOut(err):
		return fault(record.Timeout, errors.New("no answer in time"))
	case IsTLS(err):
		return fault(record.TLSError, TLSFault(err))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fault(record.ConnectionRefused, errors.New("connection refused"))
	case errors.As(err, &op) && op.Op == "dial":
		return fault(record.ConnectionRefused, errors.New("no connection could be made"))
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.As(err, &op):
		return fault(record.ConnectionReset, errors.New("the connection ended before an answer"))
	}
	return nil
}

// TimedOut reports whether a wait was too long.
func TimedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// IsTLS reports whether a connection was made and TLS was not.
func IsTLS(err error) bool {
	var alert tls.AlertError
	var header tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	return errors.As(err, &alert) || errors.As(err, &header) || errors.As(err, &verify)
}

// TLSFault keeps of a failed handshake what helps an operator: why a certificate was not believed.
func TLSFault(err error) error {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return errors.New("the certificate is signed by an unknown authority")
	case errors.As(err, &host):
		return errors.New("the certificate is for another host")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return errors.New("the certificate has expired or is not yet valid")
	case errors.As(err, &verify):
		return errors.New("the certificate cannot be verified")
	}
	return errors.New("the TLS handshake failed")
}

// Authority reads the PEM file of a private certificate authority; nil, which stands for those of
// the system, where no file is named.
func Authority(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authority: %s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// RetryAfter is the wish of the Retry-After header (RFC 9110 10.2.3), seconds or a date; zero for
// none, and for one that cannot be read.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if strings.Trim(v, "0123456789") == "" {
		s, err := strconv.ParseUint(v, 10, 31)
		if err != nil { // more than can be said in 31 bits is more than the longest wait
			return deliver.MaxRetryAfter
		}
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
