package main

// wasi:http by hand, as the canonical ABI has it (github.com/WebAssembly/component-model, CanonicalABI.md): what is longer than
// one number is answered into memory, and what has no fixed size the host puts into what it was lent.

import "unsafe"

// Answers of calls: a case, and then a handle, or a pointer and a length.
var answer [64]byte

// What the host may write to during a request (realloc.wat): a head, at most.
var lent [128 << 10]byte

func word(place int) uint32 {
	return *(*uint32)(unsafe.Pointer(&answer[place]))
}

func must(what string) {
	if answer[0] != 0 {
		panic(what + " failed")
	}
}

//go:wasmimport host lend
func lend(from unsafe.Pointer, size uint32)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-request.path-with-query
func pathWithQuery(request uint32, answer unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]incoming-request
func dropRequest(request uint32)

//go:wasmimport wasi:http/types@0.2.12 [constructor]fields
func newFields() uint32

//go:wasmimport wasi:http/types@0.2.12 [method]fields.append
func appendField(fields uint32, name unsafe.Pointer, nameSize uint32, value unsafe.Pointer, valueSize uint32, answer unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [constructor]outgoing-response
func newResponse(fields uint32) uint32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-response.body
func responseBody(response uint32, answer unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [static]response-outparam.set
func setResponse(out, which, response, a uint32, b uint64, c, d, e, f uint32)

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-body.write
func bodyStream(body uint32, answer unsafe.Pointer)

//go:wasmimport wasi:http/types@0.2.12 [static]outgoing-body.finish
func finishBody(body, hasTrailers, trailers uint32, answer unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.12 [method]output-stream.blocking-write-and-flush
func writeAndFlush(stream uint32, bytes unsafe.Pointer, size uint32, answer unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.12 [resource-drop]output-stream
func dropStream(stream uint32)

//go:wasmexport wasi:http/incoming-handler@0.2.12#handle
func handle(request, out uint32) {
	to := unsafe.Pointer(&answer)
	lend(unsafe.Pointer(&lent), uint32(len(lent)))
	path := ""
	pathWithQuery(request, to)
	if answer[0] == 1 {
		path = unsafe.String((*byte)(unsafe.Pointer(uintptr(word(4)))), word(8))
	}
	text := []byte(hello(path))
	dropRequest(request)

	fields := newFields()
	name, kind := []byte("content-type"), []byte("text/plain")
	appendField(fields, unsafe.Pointer(&name[0]), uint32(len(name)), unsafe.Pointer(&kind[0]), uint32(len(kind)), to)
	must("setting a header")
	response := newResponse(fields)
	responseBody(response, to)
	must("making a body")
	body := word(4)
	setResponse(out, 0, response, 0, 0, 0, 0, 0, 0)
	bodyStream(body, to)
	must("writing a body")
	stream := word(4)
	// A call takes 4096 bytes at most.
	for rest := text; len(rest) > 0; {
		piece := rest[:min(len(rest), 4096)]
		writeAndFlush(stream, unsafe.Pointer(&piece[0]), uint32(len(piece)), to)
		must("sending")
		rest = rest[len(piece):]
	}
	dropStream(stream)
	finishBody(body, 0, 0, to)
	must("ending a body")
}
