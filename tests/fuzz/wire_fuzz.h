/* wire_fuzz.h - a fuzz target for one protobuf message, in one line: the bytes of a frame behind its magic.
 *
 * Whatever a decoder accepts can be written again, and what was written is accepted and written alike. Seeds are made
 * by "proto.wire_test FOLDER". */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"

#define WIRE_FUZZ(type, decode, encode)                                                                                \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)                                                       \
    {                                                                                                                  \
        struct arena arena;                                                                                            \
        struct buf once = BUF_INIT(FRAME_BYTES_MAX), twice = BUF_INIT(FRAME_BYTES_MAX);                                \
        struct type *first, *second;                                                                                   \
        arena_init(&arena, 256u << 20);                                                                                \
        if (decode(&arena, span_of(data, size), &first) == OK) {                                                       \
            MUST(encode(first, &once) == OK);                                                                          \
            MUST(decode(&arena, buf_span(&once), &second) == OK);                                                      \
            MUST(encode(second, &twice) == OK);                                                                        \
            MUST(span_eq(buf_span(&once), buf_span(&twice)));                                                          \
        }                                                                                                              \
        buf_release(&once);                                                                                            \
        buf_release(&twice);                                                                                           \
        arena_release(&arena);                                                                                         \
        return 0;                                                                                                      \
    }

/* A table object, whose decoder also says why. */
#define WIRE_FUZZ_OBJECT(name, type)                                                                                   \
    static enum err decode(struct arena *arena, struct span bytes, struct type **ret)                                  \
    {                                                                                                                  \
        const char *why = NULL;                                                                                        \
        enum err err = wire_decode_##name(arena, bytes, ret, &why);                                                    \
        MUST(err == OK || why != NULL);                                                                                \
        return err;                                                                                                    \
    }                                                                                                                  \
    WIRE_FUZZ(type, decode, wire_encode_##name)

#define WIRE_FUZZ_LINK(name) WIRE_FUZZ(name, wire_decode_##name, wire_encode_##name)
