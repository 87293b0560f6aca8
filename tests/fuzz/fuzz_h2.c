/* A client's bytes into an HTTP/2 connection, however they are cut: it never crashes, holds no more than its limits
 * allow, tells every exchange its end, and gives all memory back. Exchanges answer by the input's length, so that
 * streams, whole answers and answers that never come are all there. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/dataplane/worker/h2_rig.h"

#define HELD_MOST (4u << 20) /* a hundred streams' heads and answers, HPACK tables, and what waits to be sent */

static void answer(size_t turn)
{
    for (unsigned i = 0; i < rig_x_count; i++) {
        struct exchange *x = &rig_x[i];
        if (x->over || !x->whole || (i + turn) % 3 == 0)
            continue;
        if (i % 2)
            (void)x_whole(x, 200, "{\"object\":\"chat.completion\"}");
        else
            (void)x_stream(x, true, SPAN("data: [DONE]\n\n"), true);
    }
}

static void feed(struct span bytes, size_t step)
{
    struct rig rig = { .config.limits = { .http2_streams = 10, .head_bytes = 4096, .headers = 20 } };
    rig_body_max = 0;
    MUST(rig_open(&rig) == OK);
    if (bytes.len % 2) {
        rig.socket.room = 2000; /* a client that reads no more than this */
        rig_body_max = 100;
    }
    rig_begin = bytes.len % 7 == 0 ? BEGIN_REFUSED : BEGIN_GOOD;
    /* libFuzzer need not find the preface first. */
    rig_give(&rig, SPAN("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    for (size_t turn = 0; bytes.len > 0 && rig.speaker && rig_x_count < RIG_EXCHANGES - 1000; turn++) {
        rig_give(&rig, span_head(bytes, step));
        bytes = span_skip(bytes, step);
        answer(turn);
        rig_turn(&rig);
        MUST(rig.core.buffered <= HELD_MOST);
        if (turn == 40 && rig.speaker)
            rig.speaker->ops->drain(rig.speaker);
    }
    rig_end(&rig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 256u << 10)
        return 0;
    feed(span_of(data, size), size + 1);
    feed(span_of(data, size), size / 16 + 1);
    return 0;
}
