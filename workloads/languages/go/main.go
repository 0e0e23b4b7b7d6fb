// An HTTP handler in Go: says hello, the Pod's name, and which path was asked for.
//
// It is a reactor of Go's own GOOS=wasip1. The calls of wasi:http that it makes and answers are in http.go.
package main

import (
	"fmt"
	"os"
)

func hello(path string) string {
	return fmt.Sprintf("hello from go\npod: %s\npath: %s\n", os.Getenv("POD_NAME"), path)
}

// Only the exports are called.
func main() {}
