// Go's checksum-database code as a referee, pinned by go.sum: a module of its own, no part of modelnet and in no wheel.
module modelnet.test/go

go 1.25.0

require golang.org/x/mod v0.36.0
