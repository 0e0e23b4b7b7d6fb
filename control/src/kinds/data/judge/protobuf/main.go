// Command protobuf writes and reads bodies as upstream does. It is built inside a Kubernetes 1.36 source tree;
// `record_protobuf.py` asks it.
//
// One line of JSON each: {"object": OBJECT} is answered with {"bytes": BASE64}, {"bytes": BASE64} with {"object": OBJECT}.
// An object that cannot be encoded, or bytes that cannot be read, are answered with {"error": TEXT}.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	serializerjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

type line struct {
	Object json.RawMessage `json:"object,omitempty"`
	Bytes  []byte          `json:"bytes,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func main() {
	for _, add := range []func(*runtime.Scheme) error{apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(scheme.Scheme); err != nil {
			panic(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme).UniversalDeserializer()
	binary := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	text := serializerjson.NewSerializerWithOptions(serializerjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, serializerjson.SerializerOptions{})
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		var asked, answer line
		if err := json.Unmarshal(in.Bytes(), &asked); err != nil {
			panic(err)
		}
		body, encoder := []byte(asked.Object), runtime.Encoder(binary)
		if asked.Bytes != nil {
			body, encoder = asked.Bytes, text
		}
		var buffer bytes.Buffer
		object, _, err := decoder.Decode(body, nil, nil)
		if err == nil {
			err = encoder.Encode(object, &buffer)
		}
		switch {
		case err != nil:
			answer.Error = err.Error()
		case asked.Bytes != nil:
			answer.Object = bytes.TrimSpace(buffer.Bytes())
		default:
			answer.Bytes = buffer.Bytes()
		}
		shown, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		out.Write(append(shown, '\n'))
	}
}
