package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// percentiles of a set of times, in milliseconds.
type percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func percentilesOf(times []float64) percentiles {
	if len(times) == 0 {
		return percentiles{}
	}
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	return percentiles{
		P50: round(quantile(sorted, 0.5)), P90: round(quantile(sorted, 0.9)),
		P99: round(quantile(sorted, 0.99)), Max: round(sorted[len(sorted)-1]),
	}
}

// quantile is the smallest time that a share q of all does not exceed (nearest rank).
func quantile(sorted []float64, q float64) float64 {
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// latencySVG draws the share of notifications that have arrived against the time since their
// write was acknowledged, which is on a logarithmic axis.
func latencySVG(sorted []float64, r benchResult) []byte {
	const width, height, left, bottom, top = 720.0, 420.0, 60.0, 50.0, 40.0
	least, most := 0.1, 10.0
	if len(sorted) > 0 {
		most = max(most, sorted[len(sorted)-1])
	}
	most = math.Pow(10, math.Ceil(math.Log10(most)))
	x := func(ms float64) float64 {
		share := math.Log10(max(ms, least)/least) / math.Log10(most/least)
		return left + share*(width-left-20)
	}
	y := func(share float64) float64 { return height - bottom - share*(height-bottom-top) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%g" y="22" font-size="14">Acknowledged write to arrival, %d writes/s: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms</text>`+"\n",
		left, r.Rate, r.Latency.P50, r.Latency.P90, r.Latency.P99)
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n",
			left, width-20, y(share), y(share), left-8, y(share)+4, share*100)
	}
	for ms := least; ms <= most*1.001; ms *= 10 {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%g" y2="%g" stroke="#ddd"/><text x="%.1f" y="%g" text-anchor="middle">%g ms</text>`+"\n",
			x(ms), x(ms), top, height-bottom, x(ms), height-bottom+18, math.Round(ms*1000)/1000)
	}
	b.WriteString(`<polyline fill="none" stroke="#1f6feb" stroke-width="2" points="`)
	step := max(1, len(sorted)/500)
	for i := 0; i < len(sorted); i += step {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(sorted[i]), y(float64(i+1)/float64(len(sorted))))
	}
	if n := len(sorted); n > 0 {
		fmt.Fprintf(&b, "%.1f,%.1f", x(sorted[n-1]), y(1))
	}
	b.WriteString("\"/>\n</svg>\n")
	return []byte(b.String())
}
