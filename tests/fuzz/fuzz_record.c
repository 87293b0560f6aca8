/* A record line from a node, which is another machine: read or refused, with fields that can be used as they are. */
#include "common/arena.h"
#include "proto/record.h"
#include "tests/fuzz/fuzz.h"

static void check_span(struct span text, size_t size)
{
    MUST(text.len <= size && (text.ptr || text.len == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct record r = { .status = 12345 };
    arena_init(&arena, 1u << 20);
    const enum err err = record_read(&arena, span_of(data, size), &r);
    MUST(err != ERR_NOMEM);
    if (err) {
        MUST(r.status == 12345);
    } else {
        MUST(size <= RECORD_LINE_MAX && r.time_ms != 0 && r.request_id.len > 0);
        MUST(r.attempt_count <= ATTEMPTS_MAX);
        const struct span texts[] = { r.request_id, r.node,    r.of,       r.key_id, r.team,    r.asked,
                                      r.route,      r.model,   r.endpoint, r.arm,    r.arm_why, r.assignment,
                                      r.finish,     r.outcome, r.error,    r.metric };
        for (size_t i = 0; i < ARRAY_LEN(texts); i++)
            check_span(texts[i], size);
        for (unsigned i = 0; i < r.attempt_count; i++)
            check_span(r.attempts[i].model, size);
    }
    arena_release(&arena);
    return 0;
}
