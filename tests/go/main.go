// Referee judges notes and proofs with golang.org/x/mod, the code that Go's own checksum database is verified with.
//
// It reads one JSON request a line and answers each with a line: "ok", with the text of an opened note after it, or
// "no " and the reason, as one JSON string.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type request struct {
	Kind  string   // open, record or tree
	Note  string   // open: the signed note
	Keys  []string // open: verifier keys
	Proof [][]byte // record, tree: hashes
	Size  int64    // of the larger tree
	Root  []byte   // of the larger tree
	Index int64    // record: the leaf's place; tree: the smaller size
	Leaf  []byte   // record: the leaf's hash; tree: the smaller root
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked request
		answer := ""
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			answer = "bad request: " + err.Error()
		} else if text, err := judge(asked); err != nil {
			answer = "no " + err.Error()
		} else {
			answer = "ok" + text
		}
		line, _ := json.Marshal(answer)
		fmt.Println(string(line))
	}
}

func judge(asked request) (string, error) {
	switch asked.Kind {
	case "open":
		var known []note.Verifier
		for _, key := range asked.Keys {
			verifier, err := note.NewVerifier(key)
			if err != nil {
				return "", err
			}
			known = append(known, verifier)
		}
		opened, err := note.Open([]byte(asked.Note), note.VerifierList(known...))
		if err != nil {
			return "", err
		}
		return opened.Text, nil
	case "record":
		root, leaf, err := hashes(asked)
		if err != nil {
			return "", err
		}
		proof := make(tlog.RecordProof, len(asked.Proof))
		for i, value := range asked.Proof {
			copy(proof[i][:], value)
		}
		return "", tlog.CheckRecord(proof, asked.Size, root, asked.Index, leaf)
	case "tree":
		root, leaf, err := hashes(asked)
		if err != nil {
			return "", err
		}
		proof := make(tlog.TreeProof, len(asked.Proof))
		for i, value := range asked.Proof {
			copy(proof[i][:], value)
		}
		return "", tlog.CheckTree(proof, asked.Size, root, asked.Index, leaf)
	}
	return "", fmt.Errorf("unknown kind %q", asked.Kind)
}

func hashes(asked request) (root, leaf tlog.Hash, err error) {
	if len(asked.Root) != tlog.HashSize || len(asked.Leaf) != tlog.HashSize {
		return root, leaf, fmt.Errorf("a hash has %d bytes", tlog.HashSize)
	}
	copy(root[:], asked.Root)
	copy(leaf[:], asked.Leaf)
	return root, leaf, nil
}
