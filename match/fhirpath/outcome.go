package fhirpath

// Types lists the names of the types that the result may have, as TypeName gives them. known is
// false if it may be of any type; if there is none, the result is always empty.
func (e *Expression) Types() (names []string, known bool) {
	if e.root.shape.any {
		return nil, false
	}
	for _, t := range e.root.shape.types {
		if t.fhir == nil {
			names = append(names, "System."+t.system.String())
			continue
		}
		names = append(names, t.fhir.Name)
	}
	return names, true
}

// Steps counts what the last evaluation took, of the steps that one may take. It is the same on
// every node.
func (m *Evaluator) Steps() int { return maxSteps - m.steps }
