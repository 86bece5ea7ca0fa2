package resthook_test

import (
	"bufio"
	"bytes"
	"net"
	"testing"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/resthook"
)

// BenchmarkSend is one notification over a kept connection. The endpoint is a bare socket, so
// that what is allocated is the sender's.
func BenchmarkSend(b *testing.B) {
	for _, bc := range []struct{ name, answer string }{
		{"empty answer", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"short answer", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			n := update()
			n.Body = bytes.Repeat([]byte("x"), 1024)
			to := target("http://"+answering(b, len(n.Body), []byte(bc.answer))+"/fhir", deliver.StyleFHIR)
			c := newChannel(b, resthook.Options{Egress: dev}) // closed before the endpoint is waited for
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Send(b.Context(), n, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// answering is an endpoint that gives every request with a body of that length the same answer.
func answering(b *testing.B, length int, answer []byte) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			for line := []byte{}; len(line) != len("\r\n"); {
				if line, err = r.ReadSlice('\n'); err != nil {
					return
				}
			}
			if _, err := r.Discard(length); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}
