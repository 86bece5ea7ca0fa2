package api

import (
	"log/slog"
	"net/http"
	"time"
)

// The limits of a connection. A client that sends nothing must not hold one for long.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 30 * time.Second // without a byte of a body, in or out
	keepAliveTimeout  = 2 * time.Minute  // between requests
	maxHeaderBytes    = 16 << 10
)

// Server makes the HTTP server that New's handler expects: it limits what New cannot see. There
// is no limit to the time of a whole request, since a stream of resources may take hours; the
// handler watches that every part of a body keeps coming.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       keepAliveTimeout,
		// net/http allows 4 KiB more than it is told, for its buffer.
		MaxHeaderBytes: maxHeaderBytes - 4<<10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
