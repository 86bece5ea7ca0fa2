package node

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/websocket"
	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// observer keeps the node's metrics. Labels are types, codes and channels only: never an id,
// never an endpoint, so their number stays small and they tell nothing about patients.
type observer struct {
	registry *prometheus.Registry

	eventsIngested *prometheus.CounterVec
	eventsRefused  *prometheus.CounterVec
	matchSeconds   prometheus.Histogram
	matches        prometheus.Counter
	setAside       prometheus.Counter
	interrupted    prometheus.Counter
	attempts       *prometheus.CounterVec
	delivery       *prometheus.HistogramVec
	endToEnd       *prometheus.HistogramVec
	deadLetters    *prometheus.CounterVec
	socketPings    prometheus.Counter
	socketsEnded   *prometheus.CounterVec
}

// latencies are bounds in seconds that tell a healthy node (milliseconds) from a slow endpoint
// (seconds) and from waits between attempts.
var latencies = []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 4, 8, 15, 30, 60, 300, 1800}

func newObserver() *observer {
	o := &observer{
		registry: prometheus.NewRegistry(),
		eventsIngested: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carillon_events_ingested_total",
			Help: "Changes folded from the log, by resource type and source (api, feed)."}, []string{"type", "source"}),
		eventsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carillon_events_refused_total",
			Help: "Writes refused, by issue type."}, []string{"reason"}),
		matchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "carillon_match_seconds",
			Help: "Time to evaluate one event against all Subscriptions.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 12)}),
		matches: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_matches_total", Help: "Matches folded from the log."}),
		setAside: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_events_set_aside_total",
			Help: "Events whose evaluation failed; they are dead letters of ingest."}),
		interrupted: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_match_interruptions_total",
			Help: "Times that a partition went back to its newest block."}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carillon_delivery_attempts_total",
			Help: "Delivery attempts, by channel and outcome code."}, []string{"channel", "outcome"}),
		delivery: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "carillon_delivery_seconds",
			Help: "Time of one delivery attempt.", Buckets: latencies}, []string{"channel"}),
		endToEnd: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "carillon_end_to_end_seconds",
			Help: "Time from the log's acceptance of a change to the accepted notification.", Buckets: latencies}, []string{"channel"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carillon_dead_letters_total",
			Help: "Notifications given up, by reason."}, []string{"reason"}),
		socketPings: prometheus.NewCounter(prometheus.CounterOpts{Name: "carillon_socket_pings_total",
			Help: "Pings queued for websockets of this node."}),
		socketsEnded: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carillon_sockets_ended_total",
			Help: "Websockets of this node that ended, by cause."}, []string{"cause"}),
	}
	o.registry.MustRegister(o.eventsIngested, o.eventsRefused, o.matchSeconds, o.matches, o.setAside, o.interrupted,
		o.attempts, o.delivery, o.endToEnd, o.deadLetters, o.socketPings, o.socketsEnded,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return o
}

func (o *observer) handler() http.Handler {
	return promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{})
}

func (o *observer) ingested(c record.Change) {
	if c.Interaction == fhir.Unchanged {
		return
	}
	source := "api"
	if c.Feed {
		source = "feed"
	}
	o.eventsIngested.WithLabelValues(c.Key.Type, source).Inc()
}

func (o *observer) refused(t fhir.IssueType) { o.eventsRefused.WithLabelValues(string(t)).Inc() }

func (o *observer) matched(n int) { o.matches.Add(float64(n)) }

func (o *observer) matching() match.Observer {
	return match.Observer{
		Matched:     func(_ int, took time.Duration) { o.matchSeconds.Observe(took.Seconds()) },
		SetAside:    o.setAside.Inc,
		Interrupted: func(error) { o.interrupted.Inc() },
	}
}

func (o *observer) delivering() deliver.Observer {
	return deliver.Observer{
		Attempt: func(channel string, code record.Code, took time.Duration) {
			o.attempts.WithLabelValues(channel, string(code)).Inc()
			o.delivery.WithLabelValues(channel).Observe(took.Seconds())
		},
		EndToEnd: func(channel string, took time.Duration) { o.endToEnd.WithLabelValues(channel).Observe(took.Seconds()) },
		Dead:     func(_ string, reason record.Code) { o.deadLetters.WithLabelValues(string(reason)).Inc() },
	}
}

func (o *observer) sockets() websocket.Observer {
	return websocket.Observer{
		Pinged: o.socketPings.Inc,
		Ended:  func(cause string) { o.socketsEnded.WithLabelValues(cause).Inc() },
	}
}

// gauge registers a figure that is read when metrics are asked for.
func (o *observer) gauge(name, help string, f func() float64) {
	o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
}
