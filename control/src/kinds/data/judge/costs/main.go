// Command costs estimates what rules of definitions cost, as upstream's API server does. It reads `costs.jsonl` from its
// input and writes it anew: a schema, then rules on all of it, each with its cost. It is built inside a Kubernetes 1.36
// source tree; a rule that is to be added needs any number for its cost.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	var of *schema.Structural
	for lines.Scan() {
		var row []json.RawMessage
		if json.Unmarshal(lines.Bytes(), &row) != nil {
			of = read(lines.Bytes())
			fmt.Println(lines.Text())
			continue
		}
		var rule string
		if err := json.Unmarshal(row[0], &rule); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("[%s, %d]\n", row[0], cost(*of, rule))
	}
}

func read(line []byte) *schema.Structural {
	var given v1.JSONSchemaProps
	if err := json.Unmarshal(line, &given); err != nil {
		log.Fatal(err)
	}
	var props apiextensions.JSONSchemaProps
	if err := v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&given, &props, nil); err != nil {
		log.Fatal(err)
	}
	structural, err := schema.NewStructural(&props)
	if err != nil {
		log.Fatal(err)
	}
	return structural
}

func cost(of schema.Structural, rule string) uint64 {
	of.XValidations = v1.ValidationRules{{Rule: rule}}
	env := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	decl := model.SchemaDeclType(&of, of.Type == "object")
	results, err := cel.Compile(&of, decl, celconfig.PerCallLimit, env, cel.NewExpressionsEnvLoader())
	if err != nil {
		log.Fatal(rule, err)
	}
	if results[0].Error != nil {
		log.Fatal(rule, results[0].Error)
	}
	return results[0].MaxCost
}
