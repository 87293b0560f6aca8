#!/bin/sh
# Checks who may include whom, so that the house keeps its walls.
#
#   include_rules.sh ROOT [--compile INCLUDE_DIR...]
#
# Prints each violation as file:line: what is wrong, and exits 1 when there is any. --compile also compiles each header
# alone ($CC, else cc); the directories are searched after ROOT (libraries that are not on the usual path).
set -u

if [ $# -lt 1 ] || ! cd "$1" 2>/dev/null; then
    echo "usage: $0 ROOT [--compile INCLUDE_DIR...]" >&2
    exit 2
fi
shift
compile=no
if [ $# -gt 0 ]; then
    [ "$1" = --compile ] || { echo "$0: unknown argument $1" >&2; exit 2; }
    compile=yes
    shift
fi

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
for folder in common proto dataplane controlplane admin-cli; do
    [ -d "$folder" ] && find "$folder" -name '*.[ch]'
done | LC_ALL=C sort > "$work/files"
if [ ! -s "$work/files" ]; then
    echo "$0: no sources below $PWD" >&2
    exit 2
fi

# One awk over all files: the list of files first, then their text.
cat > "$work/rules.awk" <<'AWK'
BEGIN {
    allowed["common"] = " common "
    allowed["proto"] = " common proto "
    allowed["dataplane"] = " common proto dataplane "
    allowed["controlplane"] = " common proto controlplane "
    allowed["admin-cli"] = " common proto admin-cli "
}
function complain(what) { print FILENAME ":" FNR ": " what }
function folder(path) { sub(/\/.*/, "", path); return path }
# The phase of a request that a file belongs to; the neutral form of a chat belongs to none.
function phase(path) {
    if (path !~ /^dataplane\/(route|account|dialect|upstream)\// || path ~ /^dataplane\/dialect\/chat[^\/]*\.h$/)
        return ""
    sub(/^dataplane\//, "", path)
    return folder(path)
}
function pure(path) {
    return path ~ /^dataplane\/(dialect|route)\// ||
           path ~ /^dataplane\/worker\/((http1|proxy_v2)[^\/]*|h2_(frame|head|budget)\.[ch])$/ ||
           path ~ /^dataplane\/simulate\/(estimate|setting|simulate)[^\/]*$/ ||
           path ~ /^dataplane\/account\/(usage|cost)[^\/]*$/ || path ~ /^controlplane\/(policy|decide)\// ||
           path ~ /^common\/(json|sse)[^\/]*$/
}
function library(path) {
    if (path ~ /^uv(\.h$|\/)/) return "uv"
    if (path ~ /^curl\//) return "curl"
    if (path ~ /^nng\//) return "nng"
    if (path ~ /^lmdb\.h$/) return "lmdb"
    if (path ~ /^ares[^\/]*\.h$/) return "ares"
    if (path ~ /^openssl\//) return "openssl"
    if (path ~ /^libfyaml/) return "libfyaml"
    if (path ~ /^llhttp/) return "llhttp"
    if (path ~ /^nghttp2\//) return "nghttp2"
    if (path ~ /^protobuf-c\//) return "protobuf-c"
    return ""
}
function check_library(path,    name) {
    name = library(path)
    if (name == "")
        return
    if (name == "nng" && FILENAME !~ /^proto\/(channel\.c|endpoint\.[ch])$/)
        complain("only proto/channel.c and proto/endpoint include nng")
    else if (name == "lmdb" && FILENAME != "proto/snapshot.c")
        complain("only proto/snapshot.c includes lmdb.h")
    else if (name == "nghttp2" && (FILENAME !~ /^dataplane\/worker\/h2[^\/]*\.[ch]$/ || pure(FILENAME)))
        complain("only worker/h2* includes nghttp2, and not its pure parts")
    else if (name == "protobuf-c" && FILENAME !~ /^proto\/wire[^\/]*\.[ch]$/)
        complain("only proto/wire* includes protobuf-c")
    else if (name == "curl" && FILENAME ~ /^admin-cli\// && FILENAME != "admin-cli/replay_send.c")
        complain("of the CLI only admin-cli/replay_send.c includes curl: it talks to the control plane alone")
    else if (pure(FILENAME) && name ~ /^(uv|curl|nng|lmdb|ares)$/)
        complain("pure code includes " name)
    else if (FILENAME ~ /^common\// && !(name == "openssl" && FILENAME == "common/digest.c") &&
             !(name == "libfyaml" && FILENAME == "common/yaml.c"))
        complain("common includes " name)
}
function check_phases(path,    mine, theirs) {
    mine = phase(FILENAME)
    theirs = phase(path)
    if (theirs == "" || theirs == mine)
        return
    if (path ~ /^dataplane\/account\/(cost|usage)\.h$/) # arithmetic that several phases share, no phase of a request
        return
    if (FILENAME ~ /^dataplane\/(route|account|dialect|upstream)\//) {
        complain("a phase includes another phase: " path)
    } else if (FILENAME !~ /^dataplane\/worker\/(exchange[^\/]*\.c|exchange_internal\.h|worker\.c|core\.h)$/) {
        if (used[FILENAME] != "" && used[FILENAME] != theirs)
            complain("only worker/exchange*.c, its internal header, worker/core.h and worker/worker.c include several phases: " path)
        used[FILENAME] = theirs
    }
}
function check_project(path,    from, to) {
    if (!(path in exists)) {
        complain("no such file from the root: " path)
        return
    }
    from = folder(FILENAME)
    to = folder(path)
    if (index(allowed[from], " " to " ") == 0)
        complain(from " includes " to ": " path)
    else if (from == "admin-cli" && to == "proto" && path !~ /^proto\/(wire|channel|limits|links|tables|home|errand|record|record_dir|simulation)\.h$/)
        complain("admin-cli includes more of proto than its words and links: " path)
    else if (path == "proto/wire_internal.h" && FILENAME !~ /^proto\/wire[^\/]*\.[ch]$/)
        complain("only proto/wire* includes proto/wire_internal.h")
    else if (pure(FILENAME) && path ~ /^proto\/(channel|snapshot|tablestore)\.h$/)
        complain("pure code includes " path)
    check_phases(path)
}
function check_include(line,    quote, path, own) {
    sub(/^[ \t]*#[ \t]*include[ \t]*/, "", line)
    quote = substr(line, 1, 1)
    path = substr(line, 2)
    sub(/[">].*/, "", path)
    own = FILENAME
    sub(/\.c$/, ".h", own)
    # OpenSSL uses a name that base.h bans: it may stand before all of ours.
    if (library(path) != "openssl") {
        if (FILENAME ~ /\.c$/ && !(FILENAME in begun) && own in exists && path != own)
            complain("its own header does not come first: " own)
        begun[FILENAME] = 1
    }
    if (path ~ /(^|\/)\.\.?\//)
        complain("an include is not written from the root: " path)
    else if (path ~ /\.pb-c\.h$/) {
        if (FILENAME !~ /^proto\/wire[^\/]*\.c$/)
            complain("only proto/wire*.c includes " path)
    } else if (library(path) != "")
        check_library(path)
    else if (quote == "\"")
        check_project(path)
    else if (path in exists)
        complain("a header of the project stands in <>: " path)
}
list { exists[$0] = 1; next }
/^[ \t]*#[ \t]*include/ { check_include($0); next }
/^[ \t]*(\/[*\/]|\*)/ { next }
/(^|[^a-zA-Z0-9_])(clock_(ns|ms|wall_ms|gettime)|gettimeofday|time|random_(bytes|id)|getrandom|log_(debug|info|warn|error|write))\(/ {
    if (pure(FILENAME))
        complain("pure code asks for time or randomness, or logs")
}
AWK

{
    tr '\n' '\0' < "$work/files" | xargs -0 awk -f "$work/rules.awk" list=1 "$work/files" list=0
    grep '\.h$' "$work/files" | tr '\n' '\0' | xargs -0 -r grep -L '^#pragma once$' | sed 's/$/:1: no #pragma once/'
} > "$work/violations"

if [ $compile = yes ]; then
    includes=
    for dir in "$@"; do
        includes="$includes -isystem $dir"
    done
    grep '\.h$' "$work/files" | while read -r header; do
        # shellcheck disable=SC2086 # a list of options
        printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
            ${CC:-cc} -std=c11 -D_GNU_SOURCE -I. $includes -fsyntax-only -x c - 2> "$work/errors" ||
            echo "$header:1: does not compile alone: $(grep -m1 'error:' "$work/errors")"
    done >> "$work/violations"
fi

cat "$work/violations"
[ ! -s "$work/violations" ]
