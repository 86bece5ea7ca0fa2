package stream

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What became of a write, or why a read has no answer. Callers tell them apart with errors.Is.
var (
	// ErrConflict: the expected last sequence is not the subject's. Nothing was written.
	ErrConflict = errors.New("subject has changed since it was read")
	// ErrBusy: another conditional write of the subject is on its way. Nothing was written.
	// A Publisher tries again by itself; Append leaves it to the caller, who reads first.
	ErrBusy = errors.New("subject is being written")
	// ErrFull: the disk, or the share of it that the log may use, is full. Nothing was written.
	ErrFull = errors.New("no space left for the log")
	// ErrTooLarge: the message or the batch exceeds a limit. Nothing was written.
	ErrTooLarge = errors.New("too large for the log")
	// ErrUnavailable: the log cannot be written now (no quorum, stopping, server down).
	// Nothing was written.
	ErrUnavailable = errors.New("log is not available")
	// ErrUnknown: no answer came and the log could not tell. The message may be in the log, or
	// may yet appear in it. Writing it again with the same MsgID within two minutes is safe.
	ErrUnknown = errors.New("no answer, write may have happened")
	// ErrRefused: the engine refused the message for what it is. Nothing was written.
	ErrRefused = errors.New("refused by the log")
	// ErrNotFound: there is no such message.
	ErrNotFound = errors.New("not in the log")
	// ErrGap: the log no longer holds what a reader has to read next, or ends before it.
	ErrGap = errors.New("log does not continue where the reader stopped")
	// ErrNotSealed: a reader came before Seal proved what of the log is synced.
	ErrNotSealed = errors.New("log is not sealed since start")
	// ErrReset: a lane's consumer was made anew and has forgotten the tokens that it held.
	ErrReset = errors.New("lane was made anew")
	// ErrClosed: the publisher or the server was closed. Nothing was written.
	ErrClosed = errors.New("closed")
)

// apiError is an answer of the engine that is no acknowledgement.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Numbers of the engine's errors that mean something to a writer (nats-server, errors.json).
const (
	errAccountResources  = 10002 // account limits
	errNoPeers           = 10005 // too few nodes for the copies
	errClusterAway       = 10008 // no leader
	errNotLeader         = 10009
	errInsufficient      = 10023 // server limits
	errAccountMemory     = 10028
	errNotEnabledAccount = 10039
	errStorageResources  = 10047
	errTooLongMessage    = 10054
	errExpectedStream    = 10060
	errStreamNotFound    = 10059
	errWrongLast         = 10071
	errNotEnabled        = 10076
	errStoreFailed       = 10077 // limits of the stream, or the message's own size
	errHeaderTooLong     = 10097
	errStreamOffline     = 10118
	errConsumerOffline   = 10119
	errMsgIDInProcess    = 10158
	errWrongLastBusy     = 10164
	errTooManyRequests   = 10167
	errBatchIncomplete   = 10176
	errBatchTooLarge     = 10199
	errBatchDuplicate    = 10201
	errBatchTooMany      = 10210
)

// errDuplicate marks a batch refused for a message id that the stream already has. It never
// leaves the publisher: the batch is split, and the message alone is answered with its sequence.
var errDuplicate = errors.New("batch holds a known message id")

// errIncomplete marks a batch of which the engine lost a part before the commit.
var errIncomplete = errors.New("batch incomplete")

// kind is what the answer means to a writer.
func (e *apiError) kind() error {
	switch e.ErrCode {
	case errWrongLast:
		return ErrConflict
	case errWrongLastBusy, errMsgIDInProcess, errTooManyRequests, errBatchTooMany:
		return ErrBusy
	case errBatchDuplicate:
		return errDuplicate
	case errBatchIncomplete:
		return errIncomplete
	case errTooLongMessage, errHeaderTooLong, errBatchTooLarge:
		return ErrTooLarge
	case errAccountResources, errInsufficient, errAccountMemory, errStorageResources:
		return ErrFull
	case errStoreFailed:
		// The engine wraps its store's errors in one number; only the text tells them apart.
		if strings.Contains(e.Description, "too large") {
			return ErrTooLarge
		}
		return ErrFull
	case errNoPeers, errClusterAway, errStreamOffline, errConsumerOffline, errNotLeader, errNotEnabled, errNotEnabledAccount, errStreamNotFound:
		return ErrUnavailable
	}
	return ErrRefused
}

// noRoom reports whether the engine has met its own limit.
func (e *apiError) noRoom() bool {
	return e.ErrCode == errInsufficient || e.ErrCode == errStorageResources
}

// err is the kind with the engine's own words.
func (e *apiError) err() error {
	return fmt.Errorf("%w: %s (%d)", e.kind(), e.Description, e.ErrCode)
}

// notSent reports whether an error of the client says that the request never reached a server.
func notSent(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrReconnectBufExceeded) ||
		errors.Is(err, nats.ErrInvalidConnection)
}

// readError turns the client's error of a read into ours.
func readError(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return (&apiError{Code: api.Code, ErrCode: int(api.ErrorCode), Description: api.Description}).err()
	}
	if notSent(err) || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrDisconnected) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
