#include "dataplane/route/explain.h"
#include "dataplane/worker/exchange_internal.h"
#include "dataplane/worker/live.h"
#include "proto/head.h"

#define HEADER         SPAN("x-fairlead-explain")
#define TEXT_BYTES_MAX 6144u /* clients and proxies bound a whole head at 8 KiB; the rest of it needs room, too */
#define TAIL_BYTES     64u   /* for "more" and the ends of what is open */
#define ATTEMPTS_BYTES 4096u /* attempts come first; the longest of names must leave the candidates a place */

/* The newest one may still be running: its row is filled when it ends. */
static void put_attempt(struct json_writer *w, const struct exchange *x, unsigned i)
{
    const struct ledger_attempt *row = &x->rows[i];
    const bool runs = i + 1 == x->attempts && x->attempt.running;
    const unsigned status = runs ? x->attempt.status : row->status;
    const uint64_t ttft_us = runs ? x->ttft_us : row->ttft_us;
    json_object_open(w);
    json_member_string(w, "m", row->model);
    json_member_cstr(w, "why", row->why);
    if (status)
        json_member_u64(w, "status", status);
    if (!runs && row->error)
        json_member_cstr(w, "error", row->error);
    if (ttft_us)
        json_member_u64(w, "ttft_us", ttft_us);
    json_object_close(w);
}

static void put_decided(struct json_writer *w, const struct exchange *x)
{
    const struct arm *arm = x->arm->arm;
    json_member_string(w, "arm", arm->name);
    json_member_u64(w, "policy", arm->policy_version);
    json_member_cstr(w, "arm_why", arm_why_name(x->choice.why));
    if (x->choice.assignment) {
        json_member_string(w, "assignment", x->choice.assignment->id);
        json_member_cstr(w, "unit", unit_kind_name(x->choice.unit_kind));
        json_member_u64(w, "bucket", x->choice.bucket);
    }
    if (x->target.route)
        json_member_string(w, "route", x->target.route->name);
    if (x->plan.propensity_ppb)
        json_member_decimal(w, "first_p", x->plan.propensity_ppb, 9);
    json_key(w, SPAN("attempts"));
    json_array_open(w);
    for (unsigned i = 0; i < x->attempts && w->buf->len < ATTEMPTS_BYTES; i++)
        put_attempt(w, x, i);
    json_array_close(w);
}

static enum err write_text(struct exchange *x, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    put_decided(&w, x);
    if (x->plan.all_count) {
        struct live live;
        const struct select_input input = exchange_select_input(x, &live);
        explain_brief(&w, &(struct explain_input){ .table = x->table, .select = &input, .plan = &x->plan }, TAIL_BYTES);
    }
    json_object_close(&w);
    return json_writer_end(&w);
}

enum err exchange_explain(struct exchange *x, struct buf *out)
{
    if (!x->explain || !x->arm)
        return OK;
    struct buf text = BUF_INIT(TEXT_BYTES_MAX);
    enum err err = write_text(x, &text);
    if (err == OK)
        err = http1_write_header(out, SPAN(EXPLAIN_HEADER), buf_span(&text));
    buf_release(&text);
    return err == ERR_NOMEM ? err : OK; /* rather an answer without it than none */
}
