/* PROXY headers: any cut gives the same verdict, the same client and the same rest. */
#include "dataplane/worker/proxy_v2.h"
#include "tests/fuzz/fuzz.h"

struct verdict {
    enum err err;
    bool told;
    size_t used;
    char client[64];
};

static struct verdict run(struct span bytes, size_t step)
{
    struct proxy_v2 header = { .have = 0 };
    struct verdict v = { .err = ERR_AGAIN };
    for (size_t at = 0; at < bytes.len && v.err == ERR_AGAIN; at += step) {
        struct span piece = span_head(span_skip(bytes, at), step);
        const size_t given = piece.len;
        char *copy = malloc(given);
        MUST(copy != NULL);
        memcpy(copy, piece.ptr, given);
        piece = span_of(copy, given);
        v.err = proxy_v2_take(&header, &piece);
        MUST(v.err == OK || v.err == ERR_SYNTAX || (v.err == ERR_AGAIN && piece.len == 0));
        v.used = at + given - piece.len;
        free(copy);
    }
    if (v.err == OK) {
        MUST(v.used <= PROXY_V2_BYTES_MAX);
        v.told = proxy_v2_client(&header, v.client, sizeof(v.client));
    } else {
        v.used = 0; /* where garbage is noticed depends on the cut */
    }
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct span bytes = span_of((const char *)data, size);
    const struct verdict whole = run(bytes, size ? size : 1);
    for (size_t step = 1; step < 20; step += 6) {
        const struct verdict v = run(bytes, step);
        MUST(v.err == whole.err && v.told == whole.told && v.used == whole.used);
        MUST(strcmp(v.client, whole.client) == 0);
    }
    return 0;
}
