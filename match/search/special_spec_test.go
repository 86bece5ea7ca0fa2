package search

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// Location's near (R4 and R5, page location): latitude|longitude|distance|units.
func TestPlacesAsTheSpecificationSays(t *testing.T) {
	d := local()
	const arbor = `Location{"position":{"longitude":-83.694810,"latitude":42.256500}}`
	holds(t, d, []rule{
		{"near=[latitude]|[longitude]|[distance]|[units]", arbor,
			"near=42.256500|-83.694810|11.20|km\nnear=42.3|-83.7|11.20|km\nnear=42.2565|-83.69481|0|km", "near=42.4|-83.7|11.20|km\nnear=-83.694810|42.256500|11.20|km"},
		{"if the units are omitted, then kms should be assumed", arbor, "near=42.3|-83.7|6\nnear=42.3|-83.7|6|", "near=42.3|-83.7|4"},
		{"if the distance is omitted, the server uses its own discretion: ten kilometres", arbor, "near=42.3|-83.7\nnear=42.3|-83.7|\nnear=42.3|-83.7||m", "near=42.4|-83.7"},
		{"units are UCUM codes", arbor, "near=42.3|-83.7|5000|m\nnear=42.3|-83.7|3.1|[mi_i]\nnear=42.3|-83.7|3.1|[mi_us]\nnear=42.3|-83.7|2.7|[nmi_i]\nnear=42.3|-83.7|16500|[ft_i]", "near=42.3|-83.7|4800|m\nnear=42.3|-83.7|3|[mi_us]\nnear=42.3|-83.7|15800|[ft_i]"},
		{"a comma is OR", arbor, "near=0|0|1|km,42.3|-83.7|6|km", "near=0|0|1|km,1|1|1|km"},
		{"across the 180th meridian", `Location{"position":{"longitude":179.99,"latitude":0}}`, "near=0|-179.99|3|km", "near=0|-179.99|2|km"},
		{"R5 missing", arbor, "near:missing=false", "near:missing=true"},
		{"a Location without a position", `Location{}`, "near:missing=true", "near:missing=false\nnear=0|0|20000|km"},
		{"a position without one of its parts cannot be compared", `Location{"position":{"latitude":0}}`, "near:missing=false", "near=0|0|20100|km"},
		{"a position that is none", `Location{"position":{"latitude":91,"longitude":0}}`, "", "near=90|0|20100|km"},
	})
	refuses(t, d, []refuse{
		{"near", "Location?near=1", "latitude|longitude|distance|units"},
		{"near", "Location?near=1|2|3|km|5", "latitude|longitude|distance|units"},
		{"near", "Location?near=91|0", "from -90 to 90"},
		{"near", "Location?near=0|181", "from -180 to 180"},
		{"near", "Location?near=0x1|0", "from -90 to 90"},
		{"near", "Location?near=NaN|0", "from -90 to 90"},
		{"near", "Location?near=0|0|-1", "not negative"},
		{"near", "Location?near=0|0|Inf", "not negative"},
		{"near", "Location?near=0|0|1|parsec", "[mi_us]"},
		{"near is Location's", "Patient?near=0|0", "no such search parameter"},
		{"near takes no modifier", "Location?near:not=0|0", "no modifier but :missing"},
	})
}

// The distances are those of geodesics on the ellipsoid (Vincenty's method, computed apart from this program).
func TestDistancesAreThoseOfTheEllipsoid(t *testing.T) {
	for _, c := range []struct {
		a, b         position
		metres, give float64
	}{
		{position{0, 0}, position{0, 1}, 111319.491, 0.01},                             // a degree of the equator
		{position{0, 0}, position{1, 0}, 110574.389, 1},                                // the first degree of a meridian
		{position{89, 0}, position{90, 0}, 111693.865, 1},                              // the last
		{position{-37.951033, 144.424868}, position{-37.652821, 143.926496}, 54972, 2}, // Flinders Peak to Buninyong
		{position{0, 0}, position{90, 0}, 10001965.729, 60},                            // a quarter of a meridian
		{position{0, 0}, position{0, 180}, 20003931, 40000},                            // opposite: the sphere's way
		{position{51.5, 0}, position{51.5, 0}, 0, 0},                                   // the same place
		{position{90, 10}, position{90, -170}, 0, 0.001},                               // the pole has every longitude
		{position{50.0663889, -5.7147222}, position{58.6438889, -3.07}, 969932.987, 10},
		{position{1e-9, 0}, position{0, 0}, 0.00011, 0.00001}, // tiny ones keep their digits
		{position{40, -180}, position{40, 180}, 0, 0.001},     // one meridian
		{position{-33.8568, 151.2153}, position{40.6892, -74.0445}, 15_983_534.563, 20},
	} {
		for _, got := range []float64{distanceOf(c.a, c.b), distanceOf(c.b, c.a)} {
			if math.Abs(got-c.metres) > c.give {
				t.Errorf("%v to %v: %.5f m, want %.5f", c.a, c.b, got, c.metres)
			}
		}
	}
}

// _text and _content (R4 search page, the parameters of all resources) and the rule of full
// text that is ours.
func TestFullTextFindsWords(t *testing.T) {
	d := local()
	const div = `<div xmlns=\"http://www.w3.org/1999/xhtml\"><p>Met<b>astas</b>es in the <i>liver</i>, none in bone.</p><table title=\"hidden\"><tr><td>Left x-ray</td><td>R&#233;sum&eacute; 5&nbsp;mg &amp; more</td></tr></table><!-- secret --></div>`
	const condition = `Condition{"text":{"status":"generated","div":"` + div + `"},"code":{"coding":[{"system":"http://snomed.info/sct","code":"94381002","display":"Secondary malignancy"}],"text":"Lebermetastase"},"onsetAge":{"value":61.5}}`
	holds(t, d, []rule{
		{"the specification's example", condition, "_text=(bone OR liver) and metastases", "_text=(lung OR brain) and metastases"},
		{"words, all of them, in any order, without case and accents", condition, "_text=liver metastases\n_text=LIVER\n_text=resume\n_text=r%C3%A9sum%C3%A9", "_text=liver lung\n_text=live\n_text=iver"},
		{"OR binds less than AND", condition, "_text=lung OR liver bone\n_text=liver bone OR lung", "_text=lung OR liver brain"},
		{"NOT", condition, "_text=liver NOT lung\n_text=NOT (lung OR brain)\n_text=NOT NOT liver", "_text=liver NOT bone\n_text=NOT (lung OR bone)"},
		{"words in quotes follow one another", condition, "_text=\"in the liver\"\n_text=\"liver none\"", "_text=\"the in liver\"\n_text=\"liver in\""},
		{"no phrase reaches from one block of the narrative into the next", condition, "_text=\"left x ray\"", "_text=\"bone left\"\n_text=\"ray resume\""},
		{"a word with marks is a phrase", condition, "_text=x-ray\n_text=x_ray", "_text=ray-x"},
		{"a star stands for any ending", condition, "_text=metast*\n_text=\"the liv\"*", "_text=etast*\n_text=metastx*"},
		{"operators in quotes are words", condition, "_text=\"in\"\n_text=\"AND\" OR more", "_text=\"and\""},
		{"a comma is OR, a repetition AND", condition, "_text=lung,liver\n_text=liver&_text=bone", "_text=lung,brain\n_text=liver&_text=lung"},
		{"tags, attributes and comments are no text; entities are", condition, "_text=\"5 mg more\"", "_text=hidden\n_text=secret\n_text=div\n_text=xhtml\n_text=eacute"},
		{"_text is the narrative alone, _content everything", condition, "_content=lebermetastase\n_content=\"secondary malignancy\"\n_content=94381002\n_content=liver\n_content=61.5\n_content=snomed", "_text=lebermetastase\n_content=hidden\n_content=condition\n_content=\"malignancy lebermetastase\""},
		{"without a narrative", `Condition{"code":{"text":"a b"}}`, "_text:missing=true\n_text=NOT a\n_content=a\n_content:missing=false", "_text=a\n_text:missing=false\n_content=c"},
		{"with one", condition, "_text:missing=false", "_text:missing=true"},
		{"what is no XHTML is read as far as it goes", `Condition{"text":{"div":"a < b <i c &#x; &unknown; &"}}`, "_text=a b\n_text=unknown\n_text=c", "_text=d"},
		{"a > in an attribute ends no tag", `Condition{"text":{"div":"<p title=\"a>b\">c</p>"}}`, "_text=c", "_text=b"},
		{"quotes that are not closed", `Condition{"text":{"div":"<p title='a>b</p>"}}`, "_text=b", "_text=a"},
		{"an unclosed comment hides the rest", `Condition{"text":{"div":"<p>a</p> <!-- b <i>c</i>"}}`, "_text=a", "_text=b\n_text=c"},
		{"letters of all scripts", `Condition{"text":{"div":"<div>肝臓 転移 Печень</div>"}}`, "_text=肝臓\n_text=печень", "_text=печ"},
	})
	refuses(t, d, []refuse{
		{"a query needs words", "Patient?_text=()", "lacks a word"},
		{"a query needs words", "Patient?_text=a OR", "lacks a word"},
		{"a query needs words", "Patient?_text=NOT", "lacks a word"},
		{"a query needs words", "Patient?_text=AND a", "lacks a word"},
		{"a query needs words", "Patient?_text=a *", "no letter or digit"},
		{"parentheses are closed", "Patient?_text=(a", "not closed"},
		{"parentheses are opened", "Patient?_text=a)", "closes nothing"},
		{"quotes are closed", `Patient?_text="a`, "quote in the query is not closed"},
		{"depth is bounded", "Patient?_text=" + strings.Repeat("(", 40) + "a" + strings.Repeat(")", 40), "levels of parentheses"},
		{"depth is bounded", "Patient?_text=" + strings.Repeat("NOT ", 40) + "a", "levels of parentheses"},
		{"length is bounded", "Patient?_text=" + strings.Repeat("a ", 1100), "more than 1000 values"},
	})
}

func TestQueriesOfOneMeaningHaveOneCanonicalForm(t *testing.T) {
	d := R4()
	for want, list := range map[string][]string{
		`_text=a%20b`:                    {"a b", "A AND b", "(a) (b)", `a and  "b"`, "a (b)", "(a b)"},
		`_text=a%20OR%20b%20c`:           {"a OR b c", "a or (b AND c)", "(a OR (b c))"},
		`_text=(a%20OR%20b)%20c`:         {"(a OR b) c", "(a or b) and c"},
		`_text=NOT%20(a%20b)`:            {"NOT (a b)", "not ((a AND b))"},
		`_text=NOT%20a%20b`:              {"NOT a b", "(not a) b"},
		`_text="or"%20"x%20ray"%20liv*`:  {`"OR" x-ray Liv*`, `("or") "X Ray" liv*`},
		`_text="x%20ra"*%20"not"*`:       {`x-ra* "not"*`},
		`_text=a,b`:                      {"b,a", "a,b,a"},
		`_text=resume`:                   {"r%C3%A9sum%C3%A9", "RESUME"},
		"_content=a%20OR%20NOT%20b%20c*": {"a OR NOT b c*"},
	} {
		for _, q := range list {
			name, _, _ := strings.Cut(want, "=")
			c := compiled(t, d, "Patient?"+name+"="+q)
			if c.Canonical() != "Patient?"+want {
				t.Errorf("%s: %s, want %s", q, c.Canonical(), want)
			}
			if again := compiled(t, d, c.Canonical()); again.Canonical() != c.Canonical() {
				t.Errorf("%s: again %s", c.Canonical(), again.Canonical())
			}
		}
	}
}

func TestFullTextIsExplained(t *testing.T) {
	d := R4()
	r := resource(t, d, `{"resourceType":"Location","text":{"div":"<p>One</p><p>two</p>"},"position":{"latitude":1.50,"longitude":-2}}`)
	got := compiled(t, d, "Location?_text=three&near=50|50&_language=de").Explain(r)
	for i, want := range []string{"_text=three [one two]", "near=50|50 [1.5|-2]", "_language=de []"} {
		if x := got[i+1]; fmt.Sprint(x.Text, " ", x.Found) != want || x.Met || x.Note == "" {
			t.Errorf("%+v, want %s", x, want)
		}
	}
	long := resource(t, d, `{"resourceType":"Location","text":{"div":"<p>`+strings.Repeat("wörter ", 200)+`</p>"}}`)
	if found := compiled(t, d, "Location?_text=x").Explain(long)[1].Found; len(found) != 1 || len(found[0]) > 220 || !strings.HasSuffix(found[0], "...") {
		t.Errorf("found %q", found)
	}
}

// A query of many words and a narrative of megabytes are counted like every other condition.
func TestAFullTextQueryThatIsTooCostlyIsTold(t *testing.T) {
	d := R4()
	var words []string
	for i := range 900 {
		words = append(words, fmt.Sprintf("w%d", i))
	}
	r := resource(t, d, `{"resourceType":"Patient","text":{"div":"`+strings.Repeat("a ", 1<<20)+`"}}`)
	for q, costly := range map[string]bool{strings.Join(words, " OR "): true, strings.Join(words[:5], " OR "): false, strings.Join(words, ","): true} {
		met, err := compiled(t, d, "Patient?_text="+q).Decide(r)
		if met || (err == ErrTooCostly) != costly {
			t.Errorf("%.20s: %v, %v", q, met, err)
		}
	}
}

// Tags that are not closed once were looked for to the end of the text again and again.
func TestANarrativeOfOpenTagsIsReadInOneGo(t *testing.T) {
	d := R4()
	for _, of := range []string{"<", "<'", "<!-", "&", "<p '>", `<p \"'>`, "<a>'"} {
		r := resource(t, d, `{"resourceType":"Patient","text":{"div":"`+strings.Repeat(of, 1<<20)+` end"}}`)
		compiled(t, d, "Patient?_text=end").Match(r)
	}
}
