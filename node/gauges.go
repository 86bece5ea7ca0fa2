package node

import (
	"context"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/stream"
	"github.com/prometheus/client_golang/prometheus"
)

// registerGauges registers the figures that are read when metrics are asked for.
func (n *Node) registerGauges() {
	o := n.observe
	o.registry.MustRegister(subscriptionGauges{n}, clusterGauges{n})
	o.gauge("carillon_oldest_pending_seconds", "Age of the oldest event with a pending notification.", n.oldestPending)
	o.gauge("carillon_projection_lag_events", "Events in the log that are acknowledged and not folded yet.", func() float64 {
		last, at := n.publisher.Durable(), n.ring.position()
		if last <= at {
			return 0
		}
		return float64(last - at)
	})
	o.gauge("carillon_jobs_unfinished", "Jobs that are queued or go on: replays, purges, triggers.", func() float64 {
		waiting, err := n.jobs.unfinished()
		if err != nil {
			return 0
		}
		return float64(len(waiting))
	})
	o.gauge("carillon_store_bytes", "Size of the projection's file.", func() float64 { return float64(n.store.Stats().FileBytes) })
	o.gauge("carillon_disk_free_bytes", "Free space on the data folder's disk.", func() float64 { return float64(n.disk.free.Load()) })
	o.gauge("carillon_disk_low", "1 when under 10 % or 1 GiB of the disk is free.", func() float64 { return float(n.disk.low()) })
	o.gauge("carillon_sockets", "Websockets open at this node.", func() float64 { return float64(n.sockets.Open()) })
	o.gauge("carillon_breaker_open", "Endpoints whose breaker is open, as this node sees it.", func() float64 { return float64(n.endpoints.OpenBreakers()) })
	o.gauge("carillon_delivery_stopped", "1 while all sending is stopped by hand.", func() float64 { return float(n.halted()) })
	o.gauge("carillon_ready", "1 when the node can do its work.", func() float64 {
		_, err := n.readiness(context.Background())
		return float(err == nil)
	})
}

func float(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// oldestPending looks at the head of every queue; there is one for each Subscription that has
// something pending.
func (n *Node) oldestPending() float64 {
	var oldest time.Time
	for _, birth := range n.store.PendingBirths() {
		if st, err := n.store.PendingStats(birth); err == nil && st.Count > 0 && (oldest.IsZero() || st.Since.Before(oldest)) {
			oldest = st.Since
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return time.Since(oldest).Seconds()
}

// subscriptionGauges counts Subscriptions and pending notifications, and describes the logs.
type subscriptionGauges struct{ n *Node }

var (
	descSubscriptions = prometheus.NewDesc("carillon_subscriptions", "Subscriptions, by status and channel.", []string{"status", "channel"}, nil)
	descPending       = prometheus.NewDesc("carillon_pending", "Notifications that are to be sent, by channel.", []string{"channel"}, nil)
	descStreamLast    = prometheus.NewDesc("carillon_stream_last_sequence", "Newest record of a log.", []string{"stream"}, nil)
	descStreamBytes   = prometheus.NewDesc("carillon_stream_bytes", "Size of a log.", []string{"stream"}, nil)
)

func (g subscriptionGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSubscriptions, descPending, descStreamLast, descStreamBytes} {
		ch <- d
	}
}

func (g subscriptionGauges) Collect(ch chan<- prometheus.Metric) {
	byKind, channelOf := map[[2]string]int{}, map[record.Sequence]string{}
	for _, s := range g.n.subs.all() {
		byKind[[2]string{string(s.Status), s.Channel.Type}]++
		channelOf[s.birth] = s.Channel.Type
	}
	for kind, count := range byKind {
		ch <- prometheus.MustNewConstMetric(descSubscriptions, prometheus.GaugeValue, float64(count), kind[0], kind[1])
	}
	pending := map[string]int{}
	for channel := range g.n.channels {
		pending[channel] = 0
	}
	for _, birth := range g.n.store.PendingBirths() {
		channel := channelOf[birth]
		if channel == "" {
			channel = "rest-hook" // of a deleted Subscription, on its way out
		}
		if st, err := g.n.store.PendingStats(birth); err == nil {
			pending[channel] += st.Count
		}
	}
	for channel, count := range pending {
		ch <- prometheus.MustNewConstMetric(descPending, prometheus.GaugeValue, float64(count), channel)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, name := range []string{stream.Events, stream.Matches, stream.Outcomes, stream.Dead} {
		if st, err := (&admin{g.n}).logStatus(ctx, name); err == nil {
			ch <- prometheus.MustNewConstMetric(descStreamLast, prometheus.GaugeValue, float64(st.Last), name)
			ch <- prometheus.MustNewConstMetric(descStreamBytes, prometheus.GaugeValue, float64(st.Bytes), name)
		}
	}
}
