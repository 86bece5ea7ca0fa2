package stream

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Shards is the number of shards of a resource id. It is fixed when a cluster is made: the
// engine computes the shard with it, and a partition is a function of it.
const Shards = 16

// Subjects without a variable part, and the filters that readers use.
const (
	SubjectJobs       = "fhir.match.jobs"  // matches made by hand
	SubjectDeadIngest = "fhir.dead.ingest" // records set aside before they could match

	FilterIngest  = "fhir.ingest.*.*"
	FilterEvents  = "fhir.event.>"
	FilterControl = "fhir.control.*"
	FilterUnique  = "fhir.unique.*"
	FilterMatches = "fhir.match.*"
	FilterLanes   = "fhir.lane.>"
	FilterOutcome = "fhir.outcome.*"
	FilterDead    = "fhir.dead.*"
	FilterMessage = "fhir.message.*"
	FilterTimers  = "fhir.timer.>"
	FilterDue     = "fhir.due.>"
	FilterSecret  = "fhir.secret.*"

	filterAdvisories = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"
)

// IDToken is a FHIR id as one token of a subject: its '.' becomes '_', which no id holds.
func IDToken(id fhir.ID) string { return strings.ReplaceAll(string(id), ".", "_") }

// ParseIDToken is the id that a token of a subject stands for.
func ParseIDToken(token string) (fhir.ID, error) {
	id := fhir.ID(strings.ReplaceAll(token, "_", "."))
	if strings.Contains(token, ".") || !id.Valid() {
		return "", fmt.Errorf("subject token %q is not a FHIR id", token)
	}
	return id, nil
}

// ShardOf is the shard of an id, as the stream's subject transform computes it: the 32-bit
// FNV-1a hash of the id's token modulo Shards (nats-server, subject transform function
// partition).
func ShardOf(id fhir.ID) uint8 {
	h := fnv.New32a()
	h.Write([]byte(IDToken(id)))
	return uint8(h.Sum32() % Shards)
}

// IngestSubject is where a change of the resource is published; the stream stores it under
// EventSubject. The key must be valid (see ValidKey).
func IngestSubject(key fhir.Key) string { return "fhir.ingest." + key.Type + "." + IDToken(key.ID) }

// EventSubject is where the log holds the changes of a resource.
func EventSubject(key fhir.Key) string {
	return "fhir.event." + key.Type + "." + strconv.Itoa(int(ShardOf(key.ID))) + "." + IDToken(key.ID)
}

// ValidKey reports whether a resource can be named in a subject.
func ValidKey(key fhir.Key) bool { return validType(key.Type) && key.ID.Valid() }

// ParseIngest reads the resource out of fhir.ingest.{Type}.{id}.
func ParseIngest(subject string) (fhir.Key, error) {
	rest, ok := strings.CutPrefix(subject, "fhir.ingest.")
	typ, token, cut := strings.Cut(rest, ".")
	if !ok || !cut {
		return fhir.Key{}, notOfForm(subject, "fhir.ingest.{Type}.{id}")
	}
	return parseKey(subject, typ, token)
}

// ParseEvent reads resource and shard out of fhir.event.{Type}.{shard}.{id}.
func ParseEvent(subject string) (fhir.Key, uint8, error) {
	t := strings.Split(subject, ".")
	if len(t) != 5 || t[0] != "fhir" || t[1] != "event" {
		return fhir.Key{}, 0, notOfForm(subject, "fhir.event.{Type}.{shard}.{id}")
	}
	shard, err := strconv.ParseUint(t[3], 10, 8)
	if err != nil || shard >= Shards || strconv.FormatUint(shard, 10) != t[3] {
		return fhir.Key{}, 0, fmt.Errorf("subject %q: %q is not a shard from 0 to %d", subject, t[3], Shards-1)
	}
	key, err := parseKey(subject, t[2], t[4])
	if err == nil && ShardOf(key.ID) != uint8(shard) {
		return fhir.Key{}, 0, fmt.Errorf("subject %q: the id belongs to shard %d", subject, ShardOf(key.ID))
	}
	return key, uint8(shard), err
}

// SecretSubject is where a wrapped key is kept. Nobody outside may see these subjects.
func SecretSubject(name string) string { return "fhir.secret." + name }

// ControlSubject is where a control record is written: start, partitions, level, floor.
func ControlSubject(name string) string { return "fhir.control." + name }

// ParseControl is the name of a control record.
func ParseControl(subject string) (name string, ok bool) { return parseName(subject, "fhir.control.") }

// UniqueSubject is where a conditional create writes, so that two of the same criteria meet.
// The hash is one token.
func UniqueSubject(hash string) string { return "fhir.unique." + hash }

// MatchSubject is the chain of blocks of a partition.
func MatchSubject(partition string) string { return "fhir.match." + partition }

// ParseMatch is the partition of a block; jobs are not one.
func ParseMatch(subject string) (partition string, ok bool) {
	p, ok := parseName(subject, "fhir.match.")
	return p, ok && subject != SubjectJobs
}

// LaneSubject is where the tokens of a Subscription are written.
func LaneSubject(lane string, subscription fhir.ID) string {
	return "fhir.lane." + lane + "." + IDToken(subscription)
}

// ParseLane reads lane and Subscription out of fhir.lane.{lane}.{subscription}.
func ParseLane(subject string) (lane string, subscription fhir.ID, err error) {
	rest, ok := strings.CutPrefix(subject, "fhir.lane.")
	lane, token, cut := strings.Cut(rest, ".")
	if !ok || !cut || !validName(lane) {
		return "", "", notOfForm(subject, "fhir.lane.{lane}.{subscription}")
	}
	subscription, err = ParseIDToken(token)
	return lane, subscription, err
}

// OutcomeSubject is the chain of outcome blocks of a lane.
func OutcomeSubject(lane string) string { return "fhir.outcome." + lane }

// ParseOutcome is the lane of an outcome block.
func ParseOutcome(subject string) (lane string, ok bool) { return parseName(subject, "fhir.outcome.") }

// DeadSubject is where the dead letters of a Subscription are written. No Subscription may
// have the id "ingest": its letters would be taken for records set aside.
func DeadSubject(subscription fhir.ID) string { return "fhir.dead." + IDToken(subscription) }

// ParseDead is the Subscription of a dead letter, or "ingest" for a record set aside.
func ParseDead(subject string) (fhir.ID, error) {
	token, ok := strings.CutPrefix(subject, "fhir.dead.")
	if !ok {
		return "", notOfForm(subject, "fhir.dead.{subscription}")
	}
	return ParseIDToken(token)
}

// MessageSubject is where a message channel publishes. The name comes from a Subscription's
// author; a *fhir.Error says what is wrong with it.
func MessageSubject(name string) (string, error) {
	if !validName(name) {
		return "", fhir.Refuse(fhir.IssueValue, "",
			fmt.Sprintf("message channel name %q: use letters, digits, '-' and '_' only", name))
	}
	return "fhir.message." + name, nil
}

// TimerSubject holds the schedule of a timer. The key is one or more tokens joined by dots,
// such as heartbeat.{subscription token}.
func TimerSubject(key string) string { return "fhir.timer." + key }

// DueSubject is where a timer fires.
func DueSubject(key string) string { return "fhir.due." + key }

// ParseDue is the key of a timer that fired.
func ParseDue(subject string) (key string, ok bool) {
	key, ok = strings.CutPrefix(subject, "fhir.due.")
	return key, ok && validTimerKey(key)
}

// StoredSubject is the subject under which the log stores what is published on the given one:
// the transform of EVENTS, and for all others the subject itself.
func StoredSubject(subject string) string {
	if key, err := ParseIngest(subject); err == nil {
		return EventSubject(key)
	}
	return subject
}

func parseKey(subject, typ, token string) (fhir.Key, error) {
	if !validType(typ) {
		return fhir.Key{}, fmt.Errorf("subject %q: %q is not a resource type", subject, typ)
	}
	id, err := ParseIDToken(token)
	if err != nil {
		return fhir.Key{}, fmt.Errorf("subject %q: %w", subject, err)
	}
	return fhir.Key{Type: typ, ID: id}, nil
}

func parseName(subject, prefix string) (string, bool) {
	name, ok := strings.CutPrefix(subject, prefix)
	return name, ok && validName(name)
}

func notOfForm(subject, form string) error {
	return fmt.Errorf("subject %q is not of the form %s", subject, form)
}

// validType keeps to the letters of FHIR's type names. Whether such a type exists is for those
// who know the version.
func validType(t string) bool {
	if t == "" || len(t) > 64 {
		return false
	}
	for i := 0; i < len(t); i++ {
		if c := t[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// validName keeps to one token of letters, digits, '-' and '_'.
func validName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func validTimerKey(key string) bool {
	for t := range strings.SplitSeq(key, ".") {
		if !validName(t) {
			return false
		}
	}
	return true
}

// literal reports whether a subject can be published on: tokens without wildcards or spaces.
func literal(subject string) bool {
	for t := range strings.SplitSeq(subject, ".") {
		if t == "" || strings.ContainsAny(t, "*> \t\r\n") {
			return false
		}
	}
	return true
}

// matches reports whether a literal subject lies under a filter.
func matches(filter, subject string) bool {
	for {
		f, fRest, fMore := strings.Cut(filter, ".")
		s, sRest, sMore := strings.Cut(subject, ".")
		switch {
		case f == ">":
			return true
		case f != "*" && f != s, fMore != sMore:
			return false
		case !fMore:
			return true
		}
		filter, subject = fRest, sRest
	}
}
