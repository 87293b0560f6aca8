#include "common/digest.h"
#include "dataplane/worker/exchange_internal.h"
#include "proto/head.h"

#define SHARE_ALL 1000000u

/* In the exchange's arena, which is accounted as the rest of it. */
struct content {
    size_t max;            /* of each */
    size_t prompt, answer; /* bytes kept */
    bool prompt_cut, answer_cut;
    char bytes[]; /* the prompt's, at most max; then the answer's */
};

/* By the request's id, which nobody outside can choose; not as shadows are drawn. */
static bool drawn(const struct exchange *x, uint32_t share_ppm)
{
    static const uint8_t key[16] = "records.content";
    return siphash24(key, span_cstr(x->request_id)) % SHARE_ALL < share_ppm;
}

void exchange_content_begin(struct exchange *x)
{
    const struct recorded_content *wanted = &x->arm->compiled->artifact->content;
    if (!head_lists(&wanted->teams, x->principal.team->team->name) || !drawn(x, wanted->share_ppm))
        return;
    const size_t max = wanted->bytes;
    struct content *c = arena_alloc(&x->arena, sizeof(*c) + 2 * max);
    if (!c) { /* the request goes on without */
        core_count(x->core, WORKER_RECORDS_DROPPED);
        return;
    }
    *c = (struct content){ .max = max, .prompt = size_min(x->body.len, max), .prompt_cut = x->body.len > max };
    if (c->prompt)
        memcpy(c->bytes, buf_span(&x->body).ptr, c->prompt);
    x->content = c;
    exchange_account(x);
}

size_t exchange_content_sent(struct exchange *x, struct span bytes)
{
    struct content *c = x->content;
    const size_t before = c->answer, taken = size_min(bytes.len, c->max - before);
    if (taken)
        memcpy(c->bytes + c->max + before, bytes.ptr, taken);
    c->answer += taken;
    c->answer_cut = c->answer_cut || taken < bytes.len;
    return before;
}

void exchange_content_back(struct exchange *x, size_t kept)
{
    x->content->answer = kept;
    x->content->answer_cut = false;
}

void exchange_content_settle(struct exchange *x)
{
    struct core *core = x->core;
    const struct content *c = x->content;
    const struct ledger_content line = { .time_ms = x->wall_ms,
                                         .request_id = span_cstr(x->request_id),
                                         .node = span_cstr(core->config->name),
                                         .team = x->key->team,
                                         .prompt = span_of(c->bytes, c->prompt),
                                         .answer = span_of(c->bytes + c->max, c->answer),
                                         .prompt_cut = c->prompt_cut,
                                         .answer_cut = c->answer_cut };
    struct buf *out = &core->record;
    buf_clear(out);
    enum err err = ledger_write_content(&line, out);
    if (err == OK)
        err = board_record_put(core->region, buf_span(out));
    if (err)
        core_count(core, WORKER_RECORDS_DROPPED);
    buf_clear(out);
}
