package search

import (
	"math"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// The parameter near of Location: places within a distance of a point (R4 and R5, page
// "location", section on searching by position: latitude|longitude|distance|units).

// position is a place on Earth, in degrees (WGS84).
type position struct{ latitude, longitude float64 }

// wantNear is one value of a near condition.
type wantNear struct {
	position
	metres float64
}

// lengths are the units of length of UCUM that are understood, in metres. R4 and R5 demand km
// and recommend [mi_us].
var lengths = map[string]float64{
	"km": 1000, "m": 1, "dm": 0.1, "cm": 0.01, "mm": 0.001,
	"[mi_i]": 1609.344, "[mi_us]": 6336000.0 / 3937, "[nmi_i]": 1852,
	"[yd_i]": 0.9144, "[yd_us]": 3600.0 / 3937, "[ft_i]": 0.3048, "[ft_us]": 1200.0 / 3937,
}

// nearKilometres is how far "near" reaches where a criteria does not say it; R4 and R5 leave
// that to the server.
const nearKilometres = 10

// everywhere is more than any two places on Earth are apart, in metres.
const everywhere = 3e7

// near reads one value of a near condition.
func (c *compiler) near(raw string) (wantNear, error) {
	parts := splitEscaped(raw, '|')
	if len(parts) < 2 || len(parts) > 4 {
		return wantNear{}, refusal("the value must be latitude|longitude|distance|units; without units kilometres are meant, without a distance %d of them", nearKilometres)
	}
	latitude, ok := degrees(parts[0], 90)
	longitude, fine := degrees(parts[1], 180)
	if !ok || !fine {
		return wantNear{}, refusal("latitude must be a number from -90 to 90, longitude one from -180 to 180")
	}
	unit := "km"
	if len(parts) > 3 && parts[3] != "" {
		unit = parts[3]
	}
	factor, known := lengths[unit]
	if !known {
		return wantNear{}, refusal("the unit %s of the distance is not known; known are the UCUM codes %s", shown(unit), strings.Join(sortedUnits(), ", "))
	}
	metres := float64(nearKilometres * 1000)
	if len(parts) > 2 && parts[2] != "" {
		d, err := strconv.ParseFloat(parts[2], 64)
		if err != nil || !(d >= 0) || !plainNumber(parts[2]) {
			return wantNear{}, refusal("the distance must be a number that is not negative")
		}
		metres = min(d*factor, everywhere)
	}
	return wantNear{position{latitude, longitude}, metres}, nil
}

func sortedUnits() []string {
	return []string{"km", "m", "dm", "cm", "mm", "[mi_i]", "[mi_us]", "[nmi_i]", "[yd_i]", "[yd_us]", "[ft_i]", "[ft_us]"}
}

// degrees reads a number of degrees.
func degrees(s string, limit float64) (float64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && -limit <= f && f <= limit && plainNumber(s)
}

// plainNumber refuses what ParseFloat reads beyond decimals: hexadecimal, Inf, underscores.
func plainNumber(s string) bool { return strings.Trim(s, "+-.eE0123456789") == "" }

// text is the value with its distance in metres.
func (w *wantNear) text() string {
	return w.position.text() + "|" + strconv.FormatFloat(w.metres, 'f', -1, 64) + "|m"
}

func (p *position) text() string {
	return strconv.FormatFloat(p.latitude, 'f', -1, 64) + "|" + strconv.FormatFloat(p.longitude, 'f', -1, 64)
}

var (
	nameLatitude  = json.NewName("latitude")
	nameLongitude = json.NewName("longitude")
)

// readPosition takes a Location.position that has both coordinates.
func (r *Resource) readPosition(n json.Node) {
	latitude, ok := r.degrees(r.tree.Find(n, nameLatitude), 90)
	longitude, fine := r.degrees(r.tree.Find(n, nameLongitude), 180)
	if ok && fine {
		r.positions = append(r.positions, position{latitude, longitude})
	}
}

func (r *Resource) degrees(n json.Node, limit float64) (float64, bool) {
	if r.tree.Kind(n) != json.Number {
		return 0, false
	}
	return degrees(string(r.tree.Raw(n)), limit)
}

// isNear decides a near condition.
func (c *condition) isNear(r *Resource, values []position) bool {
	const cost = 16
	for i := range values {
		if !r.spend(len(c.extra.near) * cost) {
			return false
		}
		for k := range c.extra.near {
			w := &c.extra.near[k]
			// To the millimetre: the last bits of a sine may differ between kinds of
			// processors, and every node must decide the same.
			if math.Round(distanceOf(w.position, values[i])*1000) <= math.Round(w.metres*1000) {
				return true
			}
		}
	}
	return false
}

// The ellipsoid of WGS84.
const (
	equatorRadius = 6378137.0 // metres
	flattening    = 1 / 298.257223563
)

// distanceOf gives the metres between two places along the Earth's surface, by Lambert's
// formula: the way on a sphere between the reduced latitudes, corrected for the flattening.
// It is right to some ten metres over thousands of kilometres. For places nearly opposite
// one another the correction has no value, and the sphere's way, half a per cent off, is taken.
func distanceOf(a, b position) float64 {
	const degree = math.Pi / 180
	reduced := func(latitude float64) float64 { return math.Atan((1 - flattening) * math.Tan(latitude*degree)) }
	b1, b2 := reduced(a.latitude), reduced(b.latitude)
	sinLat, sinLon := math.Sin((b2-b1)/2), math.Sin((b.longitude-a.longitude)*degree/2)
	// The conversions keep the compiler from fusing products and sums on some processors alone.
	h := float64(sinLat*sinLat) + float64(float64(math.Cos(b1)*math.Cos(b2))*float64(sinLon*sinLon))
	angle := 2 * math.Asin(math.Sqrt(min(1, h)))
	if angle == 0 {
		return 0
	}
	if angle > 3.1 {
		return equatorRadius * (1 - flattening/3) * angle
	}
	square := func(f float64) float64 { return f * f }
	mean, half := (b1+b2)/2, (b2-b1)/2
	x := (angle - math.Sin(angle)) * square(math.Sin(mean)*math.Cos(half)/math.Cos(angle/2))
	y := (angle + math.Sin(angle)) * square(math.Cos(mean)*math.Sin(half)/math.Sin(angle/2))
	return equatorRadius * (angle - float64(flattening/2*(x+y)))
}
