package search

import (
	"testing"
	"time"
)

// The rules of the specification on dates: R4 and R4B 3.1.1.4.5 (prefixes) and 3.1.1.4.7 (date),
// R5 3.2.1.5.6 and 3.2.1.5.9, whose texts on these points are the same.

func TestDateRulesOfTheSpecification(t *testing.T) {
	at := func(s string) string { return `,"effectiveDateTime":"` + s + `"` }
	period := func(s string) string { return `,"effectivePeriod":{` + s + `}` }
	checkSpec(t, []specCase{
		// The table of 3.1.1.4.7.
		{"3.1.1.4.7: eq2013-01-14 and 2013-01-14T00:00", "Observation", at("2013-01-14T00:00"), meets{yes: []string{"date=eq2013-01-14"}, no: []string{"date=ne2013-01-14"}}},
		{"3.1.1.4.7: eq2013-01-14 and 2013-01-14T10:00", "Observation", at("2013-01-14T10:00"), meets{yes: []string{"date=eq2013-01-14"}, no: []string{"date=ne2013-01-14"}}},
		{"3.1.1.4.7: eq2013-01-14 and 2013-01-15T00:00", "Observation", at("2013-01-15T00:00"), meets{no: []string{"date=eq2013-01-14"}, yes: []string{"date=ne2013-01-14"}}},
		{"3.1.1.4.7: lt and gt2013-01-14T10:00 and 2013-01-14, which includes both parts of the day", "Observation", at("2013-01-14"), meets{yes: []string{"date=lt2013-01-14T10:00", "date=gt2013-01-14T10:00"}}},
		{"3.1.1.4.7: from 21-Jan 2013 onwards", "Observation", period(`"start":"2013-01-21"`), meets{yes: []string{"date=ge2013-03-14", "date=le2013-03-14"}, no: []string{"date=sa2013-03-14", "date=eb2013-03-14"}}},
		{"3.1.1.4.7: from 15-Mar 2013 onwards", "Observation", period(`"start":"2013-03-15"`), meets{yes: []string{"date=sa2013-03-14"}, no: []string{"date=eb2013-03-14"}}},
		{"3.1.1.4.7: before and including 21-Jan 2013", "Observation", period(`"end":"2013-01-21"`), meets{yes: []string{"date=eb2013-03-14"}, no: []string{"date=sa2013-03-14"}}},
		{"3.1.1.4.7: ap2013-03-14 and 14-Mar 2013", "Observation", at("2013-03-14"), meets{yes: []string{"date=ap2013-03-14"}}},
		{"3.1.1.4.7: ap2013-03-14 and 21-Jan 2013", "Observation", at("2013-01-21"), meets{no: []string{"date=ap2013-03-14"}}},
		{"3.1.1.4.7: ap2013-03-14 and 15-Jun 2015", "Observation", at("2015-06-15"), meets{no: []string{"date=ap2013-03-14"}}},
		// The notes of 3.1.1.4.7.
		{"3.1.1.4.7: a year is an interval, its first instant", "Observation", at("2000-01-01T00:00:00Z"), meets{yes: []string{"date=2000"}, no: []string{"date=1999"}}},
		{"3.1.1.4.7: a year is an interval, its last instant", "Observation", at("2000-12-31T23:59:59.999999999Z"), meets{yes: []string{"date=2000"}, no: []string{"date=2001"}}},
		{"3.1.1.4.7: a month is an interval, its last instant", "Observation", at("2000-04-30T23:59:59.999Z"), meets{yes: []string{"date=2000-04"}, no: []string{"date=2000-05", "date=sa2000-04"}}},
		{"3.1.1.4.7: a month is an interval, in a leap year", "Observation", at("2000-02-29"), meets{yes: []string{"date=2000-02", "date=2000"}, no: []string{"date=2000-03"}}},
		{"3.1.1.4.7: hours and minutes may stand without seconds", "Observation", at("2013-01-14T10:00:59Z"), meets{yes: []string{"date=2013-01-14T10:00", "date=2013-01-14T10:00Z"}, no: []string{"date=2013-01-14T10:01"}}},
		{"3.1.1.4.7: colons may be escaped by user agents", "Observation", at("2013-01-14T10:00:59Z"), meets{yes: []string{"date=2013-01-14T10%3A00%3A59Z"}}},
		{"3.1.1.4.7: time zones are corrected for", "Observation", at("2013-01-14T23:30:00-05:00"), meets{yes: []string{"date=2013-01-15T04:30:00Z", "date=2013-01-15T05:30:00%2B01:00", "date=2013-01-15T05:30:00+01:00", "date=2013-01-14T20:30:00-08:00", "date=2013-01-15"}, no: []string{"date=2013-01-14"}}},
		{"3.1.1.4.7: a time without a zone is the server's, which is UTC here", "Observation", at("2013-01-14T23:30:00"), meets{yes: []string{"date=2013-01-14T23:30:00Z", "date=2013-01-14T23:30:00"}, no: []string{"date=2013-01-14T23:30:00-05:00"}}},
		{"3.1.1.4.7: ge2010-01-01 and le2011-12-31 enclose two years", "Observation", at("2011-12-31T23:59:59Z"), meets{yes: []string{"date=ge2010-01-01&date=le2011-12-31"}}},
		{"3.1.1.4.7: ge2010-01-01 and le2011-12-31 end with them", "Observation", at("2012-01-01T00:00:00Z"), meets{no: []string{"date=ge2010-01-01&date=le2011-12-31"}}},
		{"3.1.1.4.7: an instant is a point", "Observation", `,"effectiveInstant":"2013-01-14T10:00:00Z"`, meets{yes: []string{"date=2013-01-14T10:00:00.000", "date=2013-01-14T10:00:00", "date=le2013-01-14T10:00:00.000Z", "date=eb2013-01-14T10:00:00.001Z"}, no: []string{"date=gt2013-01-14T10:00:00.000Z", "date=2013-01-14T10:00:00.001", "date=sa2013-01-14T10:00:00Z"}}},
		{"3.1.1.4.7: of a Timing only the outer limits matter: events", "Observation", `,"effectiveTiming":{"event":["2013-03-24","2013-01-31"]}`, meets{yes: []string{"date=ap2013-02-01", "date=ge2013-03-23", "date=le2013-02-01", "date=2013"}, no: []string{"date=ap2013-01-30", "date=gt2013-03-24", "date=sa2013-01-31"}}},
		{"3.1.1.4.7: of a Timing only the outer limits matter: bounds", "Observation", `,"effectiveTiming":{"repeat":{"boundsPeriod":{"start":"2013-01-31","end":"2013-03-24"},"frequency":1,"period":2,"periodUnit":"d"}}`, meets{yes: []string{"date=ap2013-02-01"}, no: []string{"date=ap2013-03-25"}}},
		{"3.1.1.4.7: of a Timing only the outer limits matter: open", "Observation", `,"effectiveTiming":{"repeat":{"boundsPeriod":{"start":"2013-01-31"}}}`, meets{yes: []string{"date=ap2020", "date=gt2099"}, no: []string{"date=2013", "date=lt2013-01-31"}}},
		{"a Timing without limits has no dates", "Observation", `,"effectiveTiming":{"repeat":{"frequency":1,"boundsDuration":{"value":3}}}`, meets{yes: []string{"date:missing=false"}, no: []string{"date=gt0001", "date=ne2013"}}},
		{"3.1.1.4.7: a missing end lies after every date", "Observation", period(`"start":"2013-01-21"`), meets{yes: []string{"date=gt9999-12-31", "date=ne2013"}, no: []string{"date=eb9999", "date=eq9999"}}},
		{"3.1.1.4.7: a missing start lies before every date", "Observation", period(`"end":"2013-01-21"`), meets{yes: []string{"date=lt0001-01-01", "date=ne2013"}, no: []string{"date=sa0001", "date=eq2013"}}},
		// 3.1.1.4.5, on ranges.
		{"3.1.1.4.5: eq contains the whole period", "Observation", period(`"start":"2013-01-10","end":"2013-01-20"`), meets{yes: []string{"date=2013-01", "date=2013", "date=ge2013-01", "date=le2013-01"}, no: []string{"date=2013-01-15", "date=2013-02"}}},
		{"3.1.1.4.5: ne does not contain it as a whole", "Observation", period(`"start":"2013-01-10","end":"2013-02-01"`), meets{yes: []string{"date=ne2013-01", "date=ne2013-01-15"}, no: []string{"date=ne2013"}}},
		{"3.1.1.4.5: gt and lt: it reaches beyond", "Observation", period(`"start":"2013-01-10","end":"2013-01-20"`), meets{yes: []string{"date=gt2013-01-19", "date=gt2013-01-05", "date=lt2013-01-11", "date=lt2013-01-25", "date=gt2013-01-15", "date=lt2013-01-15"}, no: []string{"date=gt2013-01-20", "date=lt2013-01-10", "date=gt2013-01", "date=lt2013"}}},
		{"3.1.1.4.5: ge and le: it reaches beyond or is contained, and what ends in the searched day does neither", "Observation", period(`"start":"2013-01-10","end":"2013-01-20"`), meets{yes: []string{"date=ge2013-01-19", "date=le2013-01-11", "date=ge2013", "date=le2013"}, no: []string{"date=ge2013-01-20", "date=le2013-01-10", "date=ge2013-01-21", "date=le2013-01-09"}}},
		{"3.1.1.4.5: sa and eb: it lies beyond as a whole", "Observation", period(`"start":"2013-01-10","end":"2013-01-20"`), meets{yes: []string{"date=sa2013-01-09", "date=eb2013-01-21", "date=sa2012"}, no: []string{"date=sa2013-01-10", "date=eb2013-01-20", "date=sa2013", "date=eb2013", "date=sa2013-01-15"}}},
		{"3.1.1.4.5: ap: they overlap", "Observation", period(`"start":"2013-01-10","end":"2013-01-20"`), meets{yes: []string{"date=ap2013-01-10", "date=ap2013-01-20", "date=ap2013"}, no: []string{"date=ap2013-01-09", "date=ap2013-01-21"}}},
		// What the format allows at its edges.
		{"24:00 is the beginning of the next day", "Observation", at("2013-01-14T24:00:00Z"), meets{yes: []string{"date=2013-01-15", "date=2013-01-15T00:00:00Z"}, no: []string{"date=2013-01-14"}}},
		{"a leap second is the beginning of the next minute", "Observation", at("2016-12-31T23:59:60Z"), meets{yes: []string{"date=2017-01-01T00:00:00Z", "date=sa2016-12-31T23:59:59Z"}, no: []string{"date=2016"}}},
		{"fractions of a second have their precision", "Observation", at("2013-01-14T10:00:00.12Z"), meets{yes: []string{"date=2013-01-14T10:00:00.1Z", "date=2013-01-14T10:00:00.12Z", "date=gt2013-01-14T10:00:00.11Z"}, no: []string{"date=2013-01-14T10:00:00.123Z", "date=2013-01-14T10:00:00.13Z"}}},
		{"digits beyond the nanosecond are let go", "Observation", at("2013-01-14T10:00:00.1234567891Z"), meets{yes: []string{"date=2013-01-14T10:00:00.123456789Z", "date=2013-01-14T10:00:00.1234567899Z"}}},
		{"the first year", "Observation", at("0001"), meets{yes: []string{"date=0001", "date=lt0002", "date=sa0001-01-01T00:00%2B14:00"}, no: []string{"date=sa0001"}}},
		{"the last year", "Observation", at("9999-12-31T23:59:59-14:00"), meets{yes: []string{"date=gt9999", "date=sa9999", "date=gt1677", "date=gt2262-04-12"}, no: []string{"date=9999"}}},
		{"a period that ends before it starts holds nothing", "Observation", period(`"start":"2020","end":"2010"`), meets{yes: []string{"date:missing=false"}, no: []string{"date=2015", "date=ne2015", "date=gt0001", "date=lt9999", "date=ap2015"}}},
		{"a period's ends take in their precision", "Observation", period(`"start":"2013-01-14T10:00:00Z","end":"2013-01-14"`), meets{yes: []string{"date=2013-01-14", "date=gt2013-01-14T23:00"}}},
		{"what is no date has no value", "Observation", at("2013-13-01"), meets{yes: []string{"date:missing=false"}, no: []string{"date=2013", "date=ne2013", "date=ap2013"}}},
		{"a comma joins values by or, a repetition by and", "Observation", at("2013-01-14"), meets{yes: []string{"date=2012,2013", "date=ge2013-01-01&date=lt2013-02-01"}, no: []string{"date=2011,2012", "date=gt2013-01-01&date=lt2013-01-10"}}},
		// The types of elements.
		{"date", "Patient", `,"birthDate":"1970-05-12"`, meets{yes: []string{"birthdate=1970-05-12", "birthdate=1970", "birthdate=ap1970-05", "birthdate=eb1971"}, no: []string{"birthdate=1970-05-13", "birthdate=gt1970-05-12"}}},
		{"instant", "Patient", `,"meta":{"lastUpdated":"2026-01-02T03:04:05.006+01:00"}`, meets{yes: []string{"_lastUpdated=2026-01-02", "_lastUpdated=2026-01-02T02:04:05.006Z", "_lastUpdated=le2026-01-02T02:04:05.006Z", "_lastUpdated=ge2026-01-02T02:04:05.006Z"}, no: []string{"_lastUpdated=gt2026-01-02T02:04:05.006Z", "_lastUpdated=lt2026-01-02T02:04:05.006Z"}}},
	})
}

func TestWhatIsNoDateIsRefused(t *testing.T) {
	for _, s := range []string{"", "13", "201", "20130", "2013-1", "2013-00", "2013-13", "2013-02-29", "1900-02-29", "2013-01-32", "2013-01-00", "2013-01-14T", "2013-01-14T10", "2013-01-14T10:",
		"2013-01-14T25:00", "2013-01-14T24:01", "2013-01-14T24:00:01", "2013-01-14T24:00:00.1", "2013-01-14T10:60", "2013-01-14T10:00:61", "2013-01-14T10:00:00.", "2013-01-14T10:00:00z",
		"2013-01-14T10:00%2B15:00", "2013-01-14T10:00%2B14:30", "2013-01-14T10:00%2B1:00", "2013-01-14T10:00%2B01", "2013-01-14T10:00Z1", "2013-01-14Z", "2013-01-14 10:00", "2013/01/14", "0000", "-2013",
		"xx2013", "2013-01-14T10:00-01:00x", "gt", "20 13", "2013-01-14t10:00"} {
		if _, err := R4().Compile("Observation?date=" + s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

// FuzzDate: what is read as a time is one that the standard library reads too, with the same
// beginning, and ends after it begins.
func FuzzDate(f *testing.F) {
	for _, s := range []string{"2013", "2013-01", "2013-01-14", "2013-01-14T10:00", "2013-01-14T10:00:00Z", "2013-01-14T10:00:00.123456789+14:00", "0001-01-01T00:00:00+14:00",
		"9999-12-31T23:59:60-12:00", "2013-01-14T24:00", "2000-02-30"} {
		f.Add(s)
	}
	layouts := []string{"2006", "2006-01", "2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04:05Z07:00"}
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := parseTime([]byte(s))
		var want time.Time
		known := false
		for _, l := range layouts {
			if x, err := time.Parse(l, s); err == nil && x.Year() > 0 {
				want, known = x, true
			}
		}
		if !ok {
			return
		}
		if !v.lo.before(v.hi) {
			t.Fatalf("%q: from %v to %v", s, v.lo, v.hi)
		}
		if known && (v.lo.sec != want.Unix() || v.lo.nano != int32(want.Nanosecond())) {
			t.Fatalf("%q: begins at %v, want %v", s, v.lo, want)
		}
		w := wantSpan{opEqual, v}
		if !w.match(&v) {
			t.Fatalf("%q does not equal itself", s)
		}
	})
}
