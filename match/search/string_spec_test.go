package search

import "testing"

// The section on string of R4's search page (3.1.1.4.8) and the modifiers of R5's (3.2.1.5.5).
func TestStringsAsTheSpecificationSays(t *testing.T) {
	d := local()
	patient := func(name string) string { return `Patient{"name":[` + name + `]}` }
	const eve = `{"given":["Eve"],"family":"Everton"}`
	holds(t, d, []rule{
		{"R4 3.1.1.4.8, first example: given=eve meets a name that contains or begins with eve, without case", patient(eve),
			"given=eve\ngiven=Eve\ngiven=ev", "given=ve\ngiven=evelyn"},
		{"R4 3.1.1.4.8, first example: Evelyn is met", patient(`{"given":["Evelyn"]}`), "given=eve", "given=evelynn"},
		{"R4 3.1.1.4.8, second example: contains", patient(`{"given":["Severine"]}`), "given:contains=eve\ngiven:contains=EVE", "given=eve\ngiven:contains=evi"},
		{"R4 3.1.1.4.8, third example: exact is Eve, not eve or EVE", patient(eve), "given:exact=Eve", "given:exact=eve\ngiven:exact=EVE\ngiven:exact=Ev"},
		{"R4 3.1.1.4.8: insensitive to accents, on both sides", patient(`{"family":"Zoë"}`), "family=zoe\nfamily=ZO%C3%8B\nfamily=zoe%CC%88", "family=zoa"},
		{"R4 3.1.1.4.8: the whole string, including casing and accents, with :exact", patient(`{"family":"Zoë"}`), "family:exact=Zo%C3%AB", "family:exact=Zoe\nfamily:exact=zo%C3%AB"},
		{"R4 3.1.1.4.8: punctuation and white space that mean nothing are ignored", patient(`{"text":"Dr. Anna   O'Neill,\tMD"}`),
			"name=dr anna oneill md\nname=dr.%20anna%20%20O'Neill\nname:contains=oneill md", "name=dranna"},
		{"R5 contains: son meets Son, Sonder, Erikson, Samsonite", `Patient{"name":[{"family":"Samsonite"}]}`, "family:contains=son\nfamily:contains=SON", "family=son\nfamily:contains=sun"},
		{"R5 exact: Son alone", `Patient{"name":[{"family":"Son"}]}`, "family:exact=Son", "family:exact=son\nfamily:exact=Sonder"},
		{"R4 3.1.1.4.8: name searches every part of a HumanName", patient(`{"prefix":["Prof."],"given":["Ada","May"],"family":"King","suffix":["PhD"],"text":"Countess of Lovelace"}`),
			"name=prof\nname=ada\nname=may\nname=king\nname=phd\nname=countess", "name=lovelace\nname=xyz"},
		{"R4 3.1.1.4.8: address searches every part of an Address", `Patient{"address":[{"use":"home","text":"Zuhause","line":["Erlenstrasse 6","2. Stock"],"city":"Bern","district":"Mittelland","state":"BE","postalCode":"3012","country":"CH"}]}`,
			"address=erlen\naddress=2 stock\naddress=bern\naddress=mitt\naddress=be\naddress=3012\naddress=ch\naddress=zuhause\naddress-city=bern\naddress-country=CH", "address=home\naddress-city=erlen\naddress=stock"},
		{"R4 3.1.1.4.8: Carreno Quinones is found by either part of the family name", patient(`{"family":"Carreno Quinones"}`),
			"family=carreno\nfamily=quinones\nfamily=CARRE%C3%91O", "family=arreno\nfamily:exact=Carreno"},
		{"R4 3.1.1.4.3: a comma is OR, a repetition AND, and each may be met by another name", patient(`{"given":["Ann"]},{"given":["Bob"]}`),
			"given=ann,x\ngiven=ann&given=bob", "given=ann&given=carl"},
		{"R4 3.1.1.4.19: a comma and a backslash that are meant", patient(`{"text":"a,b\\c"}`), "name:exact=a\\,b\\\\c\nname:contains=a\\,b", "name:exact=a\\,b"},
		{"R5 missing", patient(eve), "given:missing=false\naddress:missing=true", "given:missing=true\naddress:missing=false"},

		{"R5 text of string: words and logical operators", `Composition{"title":"Metastases of the bone","section":[]}`,
			"title:text=(bone OR liver) and metastases\ntitle:text=bone metastases\ntitle:text=METAST*\ntitle:text=\"of the bone\"\ntitle:text=liver,bone", "title:text=liver\ntitle:text=bone liver\ntitle:text=\"the metastases\"\ntitle:text=metast\ntitle:text=bone NOT metastases"},
		{"R5 text of string: each part of a name is a text", patient(`{"given":["Ann"],"family":"Lee-Smith"}`), "name:text=smith\nname:text=lee ann\nname:text=lee-smith", "name:text=\"ann lee\"\nname:text=smi"},
		{"Unicode case folding", `Organization{"name":"Straße ΣΊΣΥΦΟΣ"}`, "name=STRASSE\nname=strasse σίσυφοσ\nname:contains=συφ", "name=strase\nname:contains=sisy"},
	})
	refuses(t, d, []refuse{
		{"R4 3.1.1.4.8: a value that folding leaves nothing of would match everything", "Patient?name=---", "no letter or digit"},
		{"R4 3.1.1.4.4: a modifier of another type", "Patient?name:below=a", `modifier "below"`},
		{"R5 text: an operator without its words", "Patient?name:text=a OR", "lacks a word"},
	})
}
