// Submit asks a witness to cosign, and judges the answer with torchwood and golang.org/x/mod, which our witness shares
// no line with. The body of the request comes on standard input; arguments are the witness's URL, the verifier key of
// the log and that of the witness. It prints the status, and after a 200 "cosigned" once both keys' signatures hold.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	body, err := io.ReadAll(os.Stdin)
	check(err)
	answer, err := http.Post(os.Args[1]+"/add-checkpoint", "text/plain", bytes.NewReader(body))
	check(err)
	lines, err := io.ReadAll(answer.Body)
	check(err)
	fmt.Println(answer.StatusCode)
	if answer.StatusCode != http.StatusOK {
		fmt.Println(answer.Header.Get("Content-Type"))
		os.Stdout.Write(lines)
		return
	}
	log, err := note.NewVerifier(os.Args[2])
	check(err)
	witness, err := torchwood.NewCosignatureVerifier(os.Args[3])
	check(err)
	_, checkpoint, _ := bytes.Cut(body, []byte("\n\n"))
	opened, err := note.Open(append(checkpoint, lines...), note.VerifierList(log, witness))
	check(err)
	if len(opened.Sigs) != 2 {
		check(fmt.Errorf("%d signatures of two hold", len(opened.Sigs)))
	}
	_, err = torchwood.ParseCheckpoint(opened.Text)
	check(err)
	fmt.Println("cosigned")
}

func check(err error) {
	if err != nil {
		fmt.Println("no", err)
		os.Exit(1)
	}
}
