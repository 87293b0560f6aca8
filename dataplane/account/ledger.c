#include "dataplane/account/ledger.h"
#include "common/clock.h"
#include "common/json.h"

static const char *const outcomes[LEDGER_OUTCOMES] = {
    [LEDGER_OK] = "ok",
    [LEDGER_CLIENT_ERROR] = "client_error",
    [LEDGER_ERROR] = "error",
    [LEDGER_CANCELLED] = "cancelled",
    [LEDGER_TRUNCATED] = "truncated",
};

const char *ledger_outcome_name(enum ledger_outcome outcome)
{
    REQUIRE(outcome < LEDGER_OUTCOMES);
    return outcomes[outcome];
}

const char *ledger_endpoint_name(enum endpoint endpoint)
{
    static const char *const names[] = { [ENDPOINT_NONE] = "none",
                                         [ENDPOINT_CHAT] = "chat",
                                         [ENDPOINT_COMPLETIONS] = "completions",
                                         [ENDPOINT_EMBEDDINGS] = "embeddings",
                                         [ENDPOINT_MODELS] = "models",
                                         [ENDPOINT_MODEL] = "model" };
    REQUIRE((size_t)endpoint < ARRAY_LEN(names));
    return names[endpoint];
}

const char *ledger_price_source_name(enum price_source source)
{
    static const char *const names[] = { [PRICE_SOURCE_NONE] = "none",
                                         [PRICE_SOURCE_POLICY] = "policy",
                                         [PRICE_SOURCE_SET] = "set",
                                         [PRICE_SOURCE_FEED] = "feed",
                                         [PRICE_SOURCE_BOOK] = "book" };
    REQUIRE((size_t)source < ARRAY_LEN(names));
    return names[source];
}

/* All keys here are literals without anything to escape: inline, so that their lengths are constants. A record is
 * written for every request. */
static inline void key_of(struct json_writer *w, const char *key)
{
    json_plain_key(w, span_of(key, strlen(key)));
}

static inline void member_u64(struct json_writer *w, const char *key, uint64_t value)
{
    key_of(w, key);
    json_put_u64(w, value);
}

static inline void member_i64(struct json_writer *w, const char *key, int64_t value)
{
    key_of(w, key);
    json_put_i64(w, value);
}

static inline void member_bool(struct json_writer *w, const char *key, bool value)
{
    key_of(w, key);
    json_put_bool(w, value);
}

static inline void member_text(struct json_writer *w, const char *key, struct span text)
{
    key_of(w, key);
    json_put_string(w, span_head(text, LEDGER_TEXT_MAX));
}

static inline void member_cstr(struct json_writer *w, const char *key, const char *text)
{
    key_of(w, key);
    if (text)
        json_put_string(w, span_head(span_cstr(text), LEDGER_TEXT_MAX));
    else
        json_put_null(w);
}

static void write_who(struct json_writer *w, const struct ledger_record *r)
{
    char time[CLOCK_TEXT_BYTES];
    member_cstr(w, "time", clock_format_wall(r->time_ms, time));
    member_text(w, "request_id", r->request_id);
    member_text(w, "node", r->node);
    member_u64(w, "worker", r->worker);
    member_text(w, "client", r->client);
    member_text(w, "key_id", r->key_id);
    member_text(w, "team", r->team);
}

static void write_what(struct json_writer *w, const struct ledger_record *r)
{
    member_cstr(w, "endpoint", ledger_endpoint_name(r->endpoint));
    member_bool(w, "stream", r->stream);
    member_text(w, "asked", r->asked);
    member_text(w, "route", r->route);
    member_text(w, "arm", r->arm);
    member_u64(w, "policy_version", r->policy_version);
    member_u64(w, "epoch", r->epoch);
    member_u64(w, "generation", r->generation);
}

static void write_attempts(struct json_writer *w, const struct ledger_record *r)
{
    json_key(w, SPAN("attempts"));
    json_array_open(w);
    for (unsigned i = 0; i < r->attempt_count && i < ATTEMPTS_MAX; i++) {
        const struct ledger_attempt *a = &r->attempts[i];
        json_object_open(w);
        member_text(w, "model", a->model);
        member_cstr(w, "why", a->why);
        member_cstr(w, "because", a->because);
        member_u64(w, "status", a->status);
        member_cstr(w, "error", a->error);
        member_u64(w, "ttft_us", a->ttft_us);
        member_u64(w, "duration_us", a->duration_us);
        json_object_close(w);
    }
    json_array_close(w);
}

static void write_outcome(struct json_writer *w, const struct ledger_record *r)
{
    member_text(w, "model", r->model);
    member_u64(w, "propensity_ppb", r->propensity_ppb);
    member_u64(w, "status", r->status);
    member_cstr(w, "outcome", ledger_outcome_name(r->outcome));
    member_cstr(w, "error", r->error);
    if (r->message)
        member_text(w, "message", span_cstr(r->message));
}

static void write_account(struct json_writer *w, const struct ledger_record *r)
{
    const struct usage *u = &r->usage;
    json_key(w, SPAN("usage"));
    if (u->known) {
        json_object_open(w);
        member_u64(w, "input", u->input);
        member_u64(w, "cached", u->cached);
        member_u64(w, "cache_write", u->cache_write);
        member_u64(w, "output", u->output);
        member_u64(w, "reasoning", u->reasoning);
        json_object_close(w);
    } else {
        json_put_null(w);
    }
    member_bool(w, "estimated", u->estimated);
    member_bool(w, "suspect", u->suspect);
    member_i64(w, "cost_list_nano_usd", r->cost.list_nano);
    member_i64(w, "cost_nano_usd", r->cost.charged_nano);
    member_cstr(w, "price_source", ledger_price_source_name(r->price_source));
    member_bool(w, "price_stale", r->price_stale);
    member_u64(w, "book_version", r->book_version);
    member_u64(w, "input_bytes", r->input_bytes);
    member_u64(w, "output_bytes", r->output_bytes);
    member_u64(w, "ttft_us", r->ttft_us);
    member_u64(w, "total_us", r->total_us);
    member_u64(w, "overhead_us", r->overhead_us);
}

static enum err write_line(const struct ledger_record *r, struct buf *line, bool cut)
{
    struct json_writer w;
    json_writer_init(&w, line);
    json_object_open(&w);
    write_who(&w, r);
    write_what(&w, r);
    if (cut) {
        member_u64(&w, "attempt_count", r->attempt_count);
        member_bool(&w, "cut", true);
    } else {
        write_attempts(&w, r);
    }
    write_outcome(&w, r);
    write_account(&w, r);
    json_object_close(&w);
    return json_writer_end(&w);
}

/* Straight into out, so that a caller who has made room there needs no memory more. */
enum err ledger_write(const struct ledger_record *record, struct buf *out)
{
    const size_t before = out->len;
    enum err err = write_line(record, out, false);
    if (err == ERR_FULL || (!err && out->len - before > LEDGER_LINE_MAX)) {
        /* Nine texts of 100 bytes, six times that when every byte must be escaped, and some dozen numbers: this fits.
         */
        struct ledger_record shorter = *record;
        shorter.message = NULL;
        struct span *texts[] = { &shorter.client, &shorter.request_id, &shorter.node, &shorter.key_id, &shorter.team,
                                 &shorter.asked,  &shorter.route,      &shorter.arm,  &shorter.model };
        for (size_t i = 0; i < ARRAY_LEN(texts); i++)
            *texts[i] = span_head(*texts[i], LEDGER_TEXT_MAX / 2);
        buf_truncate(out, before);
        err = write_line(&shorter, out, true);
    }
    if (err)
        buf_truncate(out, before);
    return err;
}
