package fhir

import (
	"fmt"
	"strings"
)

// The placeholders of a payload search. HAPI has the first; it is the others that make searches of
// what has no typed _id possible, and of several types.
const (
	placeKey  = "${matched_resource_id}"      // Type/id
	placeType = "${matched_resource_type}"    // Type
	placeID   = "${matched_resource_id_part}" // id
)

// ExpandPayloadSearch puts the resource that matched into the placeholders of a payload search:
// ${matched_resource_id} is Type/id, ${matched_resource_type} and ${matched_resource_id_part} are its
// halves. It fails, with an *Error, where another placeholder is left. None of what is put in needs an
// escape in a query.
func ExpandPayloadSearch(search string, k Key) (string, error) {
	out := strings.NewReplacer(placeKey, k.String(), placeType, k.Type, placeID, string(k.ID)).Replace(search)
	if i := strings.Index(out, "${"); i >= 0 {
		name, _, _ := strings.Cut(out[i:], "}")
		return "", Refuse(IssueValue, "", fmt.Sprintf("%s} is no placeholder; they are %s, %s and %s", clip(name), placeKey, placeType, placeID))
	}
	return out, nil
}
