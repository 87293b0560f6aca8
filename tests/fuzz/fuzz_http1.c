/* HTTP messages: however the bytes are cut, the verdict, the heads and the bodies are the same; as requests and as
 * responses. */
#include "tests/conformance/http_verdict.h"
#include "tests/fuzz/fuzz.h"

static void check(enum http1_kind kind, struct span bytes, struct buf *whole, struct buf *cut)
{
    bool accepted = http_verdict(kind, bytes, bytes.len, whole);
    size_t step = bytes.len / 24 + 1;
    for (size_t at = 0; at < bytes.len; at += step) {
        MUST(http_verdict(kind, bytes, at, cut) == accepted);
        MUST(span_eq(buf_span(whole), buf_span(cut)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = BUF_INIT(64u << 20), cut = BUF_INIT(64u << 20);
    if (size > 1u << 20)
        return 0;
    check(HTTP1_REQUEST, span_of(data, size), &whole, &cut);
    check(HTTP1_RESPONSE, span_of(data, size), &whole, &cut);
    buf_release(&whole);
    buf_release(&cut);
    return 0;
}
