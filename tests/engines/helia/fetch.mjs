// Fetch a UnixFS tree with Helia, over HTTP only: node fetch.mjs ROUTER CID OUT
//
// Nothing is known but the address of a delegated router. Prints one JSON line: what was fetched, or the error's name.

import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { withHTTP } from '@helia/http'
import { unixfs } from '@helia/unixfs'
import { blake3 } from '@noble/hashes/blake3.js'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'
import { from } from 'multiformats/hashes/hasher'

const [router, root, out] = process.argv.slice(2)

// Helia ships SHA-2 only; its README tells to pass others in.
const hasher = from({ name: 'blake3', code: 0x1e, encode: (bytes) => blake3(bytes) })

const helia = await withHTTP(createHeliaLight({ hashers: [hasher] }), {
  delegatedRouters: [router],
  recursiveGateways: [],
  allowInsecure: true,
  allowLocal: true
}).start()

const files = unixfs(helia)
const signal = AbortSignal.timeout(40_000)
let bytes = 0
let count = 0

async function walk (cid, path) {
  const stat = await files.stat(cid, { signal })
  if (stat.type === 'directory') {
    for await (const entry of files.ls(cid, { signal })) {
      await walk(entry.cid, join(path, entry.name))
    }
    return
  }
  const parts = []
  for await (const part of files.cat(cid, { signal })) {
    parts.push(part)
    bytes += part.length
  }
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, Buffer.concat(parts))
  count++
}

let code = 0
try {
  await walk(CID.parse(root), out)
  console.log(JSON.stringify({ files: count, bytes }))
} catch (error) {
  const names = [error, ...(error.errors ?? [])].map((one) => `${one.name}: ${one.message}`)
  console.log(JSON.stringify({ error: names }))
  code = 1
}
await helia.stop()
process.exit(code)
