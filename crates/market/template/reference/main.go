// Prints what Helm's engine (and so Go's text/template and Sprig) makes of tests/cases.json. Run by hand when the cases change:
//
//	go mod init reference && go get helm.sh/helm/v3@v3.22.0 && go mod tidy && go run . < ../tests/cases.json > ../tests/go.json
package main

import (
	"encoding/json"
	"os"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

func main() {
	var cases struct {
		Values    json.RawMessage
		Templates []string
	}
	check(json.NewDecoder(os.Stdin).Decode(&cases))
	type result struct {
		Template string `json:"template"`
		Output   string `json:"output,omitempty"`
		Error    string `json:"error,omitempty"`
	}
	var results []result
	for _, template := range cases.Templates {
		values := map[string]any{}
		check(json.Unmarshal(cases.Values, &values))
		c := &chart.Chart{
			Metadata:  &chart.Metadata{Name: "c", Version: "1", APIVersion: "v2"},
			Templates: []*chart.File{{Name: "templates/t", Data: []byte(template)}},
		}
		out, err := engine.Render(c, chartutil.Values{"Values": values})
		r := result{Template: template, Output: out["c/templates/t"]}
		if err != nil {
			r.Error = err.Error()
		}
		results = append(results, r)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	check(e.Encode(results))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
