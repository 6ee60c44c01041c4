"""IPFS at scale: a release pinned in a Kubo, by a pinning service or by an IPFS Cluster, and audited there.

address         where a Kubo is
rpc             its RPC, believed only as far as it gives proof
kubo            what we ask of it: import, pin, unpin, blocks
segments        a release as CAR files that can be sent again
push            publish to a Kubo, resumable
targets         `PinTarget`: local Kubo, Pinning Service API, IPFS Cluster; how they are written on a command line
placement       which targets hold a release (weighted rendezvous hashing)
audit           do they still have it: random blocks, hashed here
deny            IPIP-383 deny lists for what was revoked

Nothing here is imported by `import modelnet`: `ipfshttpclient` alone costs 0.2 s. And nothing here is trusted: what is
pulled is hashed by the puller, what is pushed is hashed by Kubo, and an answer without its last record is a failure.
"""
