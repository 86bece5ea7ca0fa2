package search

import (
	"encoding/base64"
	"strconv"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// The parameter contains of R5's Location: places whose boundary encloses a point. The boundary
// is GeoJSON (RFC 7946) in the Attachment of an extension; one that is kept elsewhere, under the
// attachment's url, is not fetched and encloses nothing.

// corner is a point of a boundary. A ring is closed by a corner that equals its first one.
type corner struct {
	position
	end cornerEnd
}

type cornerEnd uint8

const (
	endNone    cornerEnd = iota
	endRing              // the last corner of a ring
	endPolygon           // and of its polygon
)

var (
	nameCoordinates = json.NewName("coordinates")
	nameFeatures    = json.NewName("features")
	nameGeometry    = json.NewName("geometry")
	nameGeometries  = json.NewName("geometries")
)

// readArea takes the polygons of an Attachment that holds GeoJSON.
func (r *Resource) readArea(n json.Node) {
	text := r.tree.Text(r.tree.Find(n, nameData))
	r.scratch = append(r.scratch[:0], make([]byte, base64.StdEncoding.DecodedLen(len(text)))...)
	size, err := base64.StdEncoding.Decode(r.scratch, text)
	if err != nil {
		return
	}
	t, err := json.Parse(r.scratch[:size], json.Limits{})
	if err != nil {
		return
	}
	r.addGeometry(t, t.Root())
}

// addGeometry goes down to the polygons. Depth is bounded by the parser. Points and lines
// enclose nothing.
func (r *Resource) addGeometry(t *json.Tree, n json.Node) {
	switch t.Str(t.Find(n, nameType)) {
	case "FeatureCollection":
		for c := range t.Children(t.Find(n, nameFeatures)) {
			r.addGeometry(t, c)
		}
	case "Feature":
		r.addGeometry(t, t.Find(n, nameGeometry))
	case "GeometryCollection":
		for c := range t.Children(t.Find(n, nameGeometries)) {
			r.addGeometry(t, c)
		}
	case "Polygon":
		r.addPolygon(t, t.Find(n, nameCoordinates))
	case "MultiPolygon":
		for c := range t.Children(t.Find(n, nameCoordinates)) {
			r.addPolygon(t, c)
		}
	}
}

// addPolygon takes the rings of a polygon: its border and its holes. One that has a corner
// without a place on Earth is left out whole.
func (r *Resource) addPolygon(t *json.Tree, n json.Node) {
	from := len(r.corners)
	for ring := range t.Children(n) {
		begin := len(r.corners)
		for c := range t.Children(ring) {
			x := t.First(c)
			y := t.Next(x)
			longitude, ok := degrees(string(t.Raw(x)), 180)
			latitude, fine := degrees(string(t.Raw(y)), 90)
			if !ok || !fine {
				r.corners = r.corners[:from]
				return
			}
			r.corners = append(r.corners, corner{position: position{latitude, longitude}})
		}
		if len(r.corners) > begin {
			r.corners[len(r.corners)-1].end = endRing
		}
	}
	if len(r.corners) > from {
		r.corners[len(r.corners)-1].end = endPolygon
	}
}

// encloses decides a condition on areas. A point on a border may count as within or not; every
// node counts it alike.
func (c *condition) encloses(r *Resource, corners []corner) bool {
	for i := range c.extra.points {
		if !r.spend(1 + len(corners)) {
			return false
		}
		p, inside, ring := c.extra.points[i], false, 0
		for k := range corners {
			if k > ring && crosses(p, corners[k-1].position, corners[k].position) {
				inside = !inside
			}
			switch {
			case corners[k].end == endPolygon && inside:
				return true
			case corners[k].end != endNone:
				ring = k + 1
			}
		}
	}
	return false
}

// crosses reports whether the way north from a point crosses the line between two corners: an
// odd number of times from within a polygon. Longitude and latitude count as a plane's axes, as
// RFC 7946 has it (3.1.1).
func crosses(p, a, b position) bool {
	if (a.longitude > p.longitude) == (b.longitude > p.longitude) {
		return false
	}
	// The conversions keep the compiler from fusing products and sums on some processors alone.
	rise := float64(b.latitude-a.latitude) * float64(p.longitude-a.longitude)
	run := b.longitude - a.longitude
	return p.latitude < a.latitude+float64(rise/run)
}

// point reads one value of a condition on areas.
func (c *compiler) point(raw string) (position, error) {
	parts := splitEscaped(raw, '|')
	if len(parts) != 2 {
		return position{}, refusal("the value must be latitude|longitude")
	}
	latitude, ok := degrees(parts[0], 90)
	longitude, fine := degrees(parts[1], 180)
	if !ok || !fine {
		return position{}, refusal("latitude must be a number from -90 to 90, longitude one from -180 to 180")
	}
	return position{latitude, longitude}, nil
}

// foundAreas says of the areas of a resource how many corners they have.
func foundAreas(corners []corner) []string {
	var out []string
	from := 0
	for i := range corners {
		if corners[i].end == endPolygon && len(out) < foundLimit {
			out = append(out, "an area of "+strconv.Itoa(i+1-from)+" corners from "+corners[from].text())
			from = i + 1
		}
	}
	return out
}
