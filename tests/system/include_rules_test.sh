#!/bin/sh
# include_rules.sh must pass a clean tree and catch each kind of violation in a dirty one.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
tree=$work/tree # where a test does its damage
mkdir "$tree"
failed=0
count=0

# put FILE LINE...: the file gets these lines.
put() {
    put_to=$tree/$1
    shift
    mkdir -p "${put_to%/*}"
    printf '%s\n' "$@" > "$put_to"
}
header() { # header FILE [LINE...]
    header_name=$1
    shift
    put "$header_name" '#pragma once' "$@"
}

clean_tree() {
    rm -rf "$tree"
    cp -r "$work/clean" "$tree"
}

make_clean_tree() {
    header common/base.h '#include <stdint.h>'
    header common/json.h '#include "common/base.h"'
    header common/clock.h 'long clock_ms(void);'
    put common/json.c '#include "common/json.h"' '#include <string.h>' '/* not clock_ms() */'
    put common/digest.c '#include <openssl/sha.h>'
    put common/yaml.c '#include <libfyaml.h>'
    for name in wire channel limits snapshot tablestore board wire_internal; do
        header "proto/$name.h" '#include "common/base.h"'
    done
    put proto/channel.c '#include "proto/channel.h"' '#include <nng/nng.h>'
    header proto/endpoint.h '#include <nng/nng.h>'
    put proto/snapshot.c '#include "proto/snapshot.h"' '#include <lmdb.h>'
    put proto/wire_links.c '#include "proto/wire_internal.h"' '#include "links.pb-c.h"' '#include <protobuf-c/protobuf-c.h>'
    header dataplane/dialect/chat.h '#include "common/base.h"'
    header dataplane/dialect/openai.h '#include "dataplane/dialect/chat.h"'
    header dataplane/route/select.h '#include "dataplane/dialect/chat.h"' '#include "proto/limits.h"'
    header dataplane/upstream/upstream.h '#include <curl/curl.h>'
    header dataplane/account/ledger.h '#include "dataplane/dialect/chat.h"'
    put dataplane/worker/exchange_retry.c '#include "dataplane/route/select.h"' '#include "dataplane/upstream/upstream.h"'
    put dataplane/worker/worker.c '#include "dataplane/route/select.h"' '#include "dataplane/account/ledger.h"' '#include <uv.h>'
    put dataplane/worker/loader.c '#include "dataplane/route/select.h"' '#include "dataplane/dialect/chat.h"'
    header controlplane/policy/policy.h '#include "proto/limits.h"' '#include "common/clock.h"'
    header controlplane/decide/weights.h '#include "controlplane/policy/policy.h"'
    put admin-cli/main.c '#include "proto/wire.h"' '#include "proto/channel.h"' '#include "proto/limits.h"' '#include "common/base.h"'
}

fail() {
    echo "FAIL: $1"
    [ -z "$output" ] || echo "$output" | sed 's/^/    /'
    failed=$((failed + 1))
}

# catches WHERE WHAT [OPTION...]: exactly one violation, at WHERE, whose text contains WHAT. The tree is clean again afterwards.
catches() {
    where=$1 what=$2
    shift 2
    count=$((count + 1))
    output=$("$here/include_rules.sh" "$tree" "$@" 2>&1)
    code=$?
    if [ $code -ne 1 ] || [ "$(echo "$output" | wc -l)" -ne 1 ]; then
        fail "one violation expected at $where ($what), exit $code"
    else
        case $output in
        "$where: "*"$what"*) ;;
        *) fail "$where: $what" ;;
        esac
    fi
    clean_tree
}

output=
"$here/include_rules.sh" "$tree/none" 2> /dev/null
[ $? -eq 2 ] || fail 'a root that is missing is no clean tree'
"$here/include_rules.sh" "$tree" 2> /dev/null
[ $? -eq 2 ] || fail 'an empty root is no clean tree'

make_clean_tree
cp -r "$tree" "$work/clean"
output=$("$here/include_rules.sh" "$tree" 2>&1) || fail 'a clean tree passes'

# Folders.
put common/buf.c '#include <string.h>' '#include "proto/limits.h"'
catches common/buf.c:2 'common includes proto'
put proto/wire.c '#include "proto/wire.h"' '#include "dataplane/dialect/chat.h"'
catches proto/wire.c:2 'proto includes dataplane'
put dataplane/main.c '#include "controlplane/policy/policy.h"'
catches dataplane/main.c:1 'dataplane includes controlplane'
put controlplane/main.c '' '  #  include "dataplane/dialect/chat.h"'
catches controlplane/main.c:2 'controlplane includes dataplane'
put admin-cli/table.c '#include "controlplane/policy/policy.h"'
catches admin-cli/table.c:1 'admin-cli includes controlplane'
for name in snapshot tablestore board wire_internal; do
    put admin-cli/table.c "#include \"proto/$name.h\""
    catches admin-cli/table.c:1 'admin-cli includes more of proto'
done
put admin-cli/table.c '#include <curl/curl.h>'
catches admin-cli/table.c:1 'of the CLI only admin-cli/replay_send.c'
put dataplane/main.c '#include "proto/wire_internal.h"'
catches dataplane/main.c:1 'only proto/wire*'

# How an include is written.
put dataplane/worker/reply.c '#include "../route/select.h"'
catches dataplane/worker/reply.c:1 'not written from the root'
put dataplane/worker/reply.c '#include "./reply.h"'
catches dataplane/worker/reply.c:1 'not written from the root'
put dataplane/worker/reply.c '#include "reply.h"'
catches dataplane/worker/reply.c:1 'no such file'
put dataplane/worker/reply.c '#include <common/base.h>'
catches dataplane/worker/reply.c:1 'stands in <>'
put common/json.c '#include <string.h>' '#include "common/json.h"'
catches common/json.c:1 'its own header does not come first'

# Libraries.
put proto/wire.c '#include "proto/wire.h"' '#include <nng/protocol/reqrep0/req.h>'
catches proto/wire.c:2 'only proto/channel.c'
header proto/channel.h '#include <nng/nng.h>'
catches proto/channel.h:2 'only proto/channel.c'
put controlplane/main.c '#include <lmdb.h>'
catches controlplane/main.c:1 'only proto/snapshot.c'
put proto/snapshot_check.c '#include "links.pb-c.h"'
catches proto/snapshot_check.c:1 'only proto/wire*.c'
header proto/wire.h '#include "links.pb-c.h"'
catches proto/wire.h:2 'only proto/wire*.c'
put dataplane/main.c '#include <protobuf-c/protobuf-c.h>'
catches dataplane/main.c:1 'only proto/wire*'
for file in dataplane/worker/conn.c dataplane/worker/h2_head.c dataplane/main.c; do
    put $file '#include <nghttp2/nghttp2.h>'
    catches $file:1 'only worker/h2*'
done
for lib in uv.h curl/curl.h openssl/evp.h libfyaml.h llhttp.h; do
    put common/buf.c "#include <$lib>"
    catches common/buf.c:1 'common includes'
done

# Pure code.
for file in dataplane/worker/http1_write.c dataplane/worker/h2_head.c dataplane/dialect/gemini.c dataplane/route/ask.c dataplane/account/usage.c \
    dataplane/account/cost_book.c controlplane/policy/parse.c controlplane/decide/health.c; do
    for lib in uv.h uv/version.h curl/curl.h ares.h; do
        put $file "#include <$lib>"
        catches $file:1 'pure code includes'
    done
    for name in channel snapshot tablestore; do
        put $file "#include \"proto/$name.h\""
        catches $file:1 "pure code includes proto/$name.h"
    done
    for call in 'x = clock_ms();' 'if (time(NULL))' '    random_bytes(seed, 16);' 'log_warn("e");' 'clock_gettime(CLOCK_REALTIME, &t);'; do
        put $file '' "$call"
        catches $file:2 'pure code asks for time or randomness'
    done
done
put common/sse.c '#include <string.h>' 'x = clock_wall_ms();'
catches common/sse.c:2 'pure code asks for time or randomness'

# Phases.
for phase in route account dialect upstream; do
    for other in route/select account/ledger dialect/openai upstream/upstream; do
        [ "${other%%/*}" = $phase ] && continue
        put dataplane/$phase/x.c "#include \"dataplane/$other.h\""
        catches dataplane/$phase/x.c:1 'a phase includes another phase'
    done
done
for file in dataplane/worker/conn.c dataplane/node/master.c dataplane/main.c dataplane/worker/worker_more.c dataplane/worker/exchange.h; do
    put $file '#pragma once' '#include "dataplane/route/select.h"' '#include "dataplane/dialect/chat.h"' '#include "dataplane/account/ledger.h"'
    catches $file:4 'include several phases'
done

# Headers.
put common/err.h '/* #pragma once */' '#include <stdint.h>'
catches common/err.h:1 'no #pragma once'

# What the compiler says, without the libraries of the clean tree.
alone() {
    rm -rf "${tree:?}"/*
    header common/base.h '#include <stdint.h>' 'static inline uint8_t one(void)' '{' '    return 1;' '}'
}
alone
output=$("$here/include_rules.sh" "$tree" --compile 2>&1) || fail 'a header that stands alone passes'
header common/err.h 'size_t length(void);'
catches common/err.h:1 'does not compile alone' --compile
alone
header common/lib.h '#include <onlyhere.h>'
catches common/lib.h:1 'does not compile alone' --compile
alone
header common/lib.h '#include <onlyhere.h>'
mkdir "$tree/lib"
: > "$tree/lib/onlyhere.h"
output=$("$here/include_rules.sh" "$tree" --compile "$tree/lib" 2>&1) || fail 'include directories are searched'

if [ $failed -gt 0 ]; then
    echo "include_rules_test: $failed of $count failed"
    exit 1
fi
echo "include_rules_test: $count violations caught"
