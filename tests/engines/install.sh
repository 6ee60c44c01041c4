#!/usr/bin/env bash
# Install the engines that some tests compare with, where this machine can; a test whose engine is absent skips itself.
# Quiet when nothing is to be done, and always exits 0: an engine is optional.
#
# Kubo is built by the Go module proxy's rules from tests/engines/kubo/go.mod and go.sum, which pin every byte of it.
# Helia comes with a Node of its own, by npm from tests/engines/helia/package-lock.json; no package's scripts are run.
# Both are kept in the user's cache, so that a fresh clone on the same machine does not build or fetch them again.
set -u
here=$(cd "$(dirname "$0")" && pwd)
engines=$(cd "$here/../.." && pwd)/.cache/engines
cache=${MODELNET_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/modelnet-tests}
build_limit_s=900   # 82 s cold on two cores
fetch_limit_s=600   # 300 MB

skipped() { echo "$1: skipped because $2"; }

# place FILE TARGET: a hard link where the two share a disk, else a copy; the rename makes it appear whole.
place() {
  mkdir -p "$(dirname "$2")" || return 1
  ln "$1" "$2.$$" 2>/dev/null || cp "$1" "$2.$$" || return 1
  mv -f "$2.$$" "$2"
}

kubo() {
  local version wanted kept build reason
  version=$(sed -n 's|.*github.com/ipfs/kubo \(v[^ ]*\).*|\1|p' "$here/kubo/go.mod")
  wanted=${version#v}
  kept=$cache/engines/kubo-$version-$(uname -sm | tr ' ' '-')/ipfs

  [ "$("$engines/ipfs" version --number 2>/dev/null)" != "$wanted" ] || return 0
  if [ "$("$kept" version --number 2>/dev/null)" = "$wanted" ]; then
    place "$kept" "$engines/ipfs" || skipped kubo "$engines cannot be written"
    return 0
  fi
  command -v go >/dev/null 2>&1 || { skipped kubo "go is missing"; return 0; }

  echo "kubo: building $version, about 90 s on two cores"
  mkdir -p "$engines" && build=$(mktemp -d "$engines/build.XXXXXX") || { skipped kubo "$engines cannot be written"; return 0; }
  # GOWORK=off: a workspace above this checkout must not change what is built.
  if ! (cd "$here/kubo" && GOWORK=off GOFLAGS= CGO_ENABLED=0 GOBIN=$build \
        run_limited "$build_limit_s" go install -trimpath -tags nofuse -ldflags "-s -w" github.com/ipfs/kubo/cmd/ipfs) >"$build/log" 2>&1; then
    reason=$(grep -v '^go: downloading' "$build/log" | tail -n 1)
    skipped kubo "the build failed: ${reason:-no message}"
  elif [ "$("$build/ipfs" version --number 2>/dev/null)" != "$wanted" ]; then
    skipped kubo "the built binary is not version $wanted"
  else
    place "$build/ipfs" "$engines/ipfs" && echo "kubo: installed $version"
    place "$build/ipfs" "$kept" || echo "kubo: not cached because $cache cannot be written"
  fi
  rm -rf "$build"
}

helia() {
  local mark kept build reason
  mark=$(cat "$here/helia/package-lock.json" | cksum | tr -d ' ')
  kept=$cache/engines/helia-$mark
  [ "$(readlink "$engines/helia")" != "$kept" ] || [ ! -e "$kept/whole" ] || return 0
  if [ ! -e "$kept/whole" ]; then
    command -v npm >/dev/null 2>&1 || { skipped helia "npm is missing"; return 0; }
    echo "helia: fetching it and its Node, about 300 MB"
    mkdir -p "$kept.parts" && build=$(mktemp -d "$kept.parts/XXXXXX") || { skipped helia "$cache cannot be written"; return 0; }
    cp "$here"/helia/package*.json "$build"
    if ! (cd "$build" && run_limited "$fetch_limit_s" npm ci --ignore-scripts --legacy-peer-deps --no-audit --no-fund) \
        >"$build/log" 2>&1; then
      reason=$(grep 'npm error' "$build/log" | head -n 1)
      skipped helia "npm failed: ${reason:-no message}"
      rm -rf "$kept.parts"
      return 0
    fi
    touch "$build/whole"
    rm -rf "$kept" && mv "$build" "$kept"   # whole or not there at all
    rm -rf "$kept.parts"
    echo "helia: installed"
  fi
  mkdir -p "$engines" && ln -sfn "$kept" "$engines/helia" || skipped helia "$engines cannot be written"
}

run_limited() {
  local limit=$1
  shift
  if command -v timeout >/dev/null 2>&1; then timeout "$limit" "$@"; else "$@"; fi
}

kubo
helia
exit 0
