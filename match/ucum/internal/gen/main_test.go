package main

import (
	"strings"
	"testing"
)

func TestTheTableHasWhatUCUMDefines(t *testing.T) {
	const in = `{"prefixes":{"config":["code_","value_","exp_"],"data":[["k",1000,"3"],["Ki",1024,null]]},
		"units":{"config":["isBase_","csCode_",["dim_","dimVec_"],"isMetric_","isSpecial_","isArbitrary_","source_","csUnitString_","baseFactorStr_"],"data":[
		[true,"m",[1],false,false,false,"UCUM",null,null],
		[false,"mol",[0],true,false,false,"UCUM","10*23","6.0221367"],
		[false,"Cel",[0],true,true,false,"UCUM","K",null],
		[false,"[pH]",[0],false,true,false,"UCUM","mol/l",null],
		[false,"[arb'U]",[0],false,false,true,"UCUM","1","1"],
		[false,"l",[0],true,false,false,"UCUM","dm3","1"],
		[false,"mg/dL",[0],true,false,false,"LOINC","g","1"]]}}`
	const want = "prefix\tk\t3\nprefix\tKi\t=1024\nbase\tm\tm\nbase\tmol\tm\nscale\tCel\tm\t1\tK\t273.15\nown\t[pH]\t-\nown\t[arb'U]\t-\nunit\tl\tm\t1\tdm3\n"
	var out strings.Builder
	if err := generate(&out, []byte(in)); err != nil || out.String() != header+want {
		t.Errorf("%v\n%s", err, strings.TrimPrefix(out.String(), header))
	}
}

func TestInputOfAnotherFormIsRefused(t *testing.T) {
	for _, in := range []string{
		`[`,
		`{"units":{"config":["csCode_"],"data":[["m",1]]}}`,
		`{"units":{"config":[1],"data":[["m"]]}}`,
		`{"units":{"config":["csCode_","source_"],"data":[["x","UCUM"]]}}`,
	} {
		if err := generate(new(strings.Builder), []byte(in)); err == nil {
			t.Errorf("%s is accepted", in)
		}
	}
}
