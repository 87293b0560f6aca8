#include "common/units.h"
#include "dataplane/worker/exchange_internal.h"

#define METRIC_BYTES_MAX 64u

static const struct json_limits limits = { .bytes_max = EXCHANGE_FEEDBACK_BYTES, .depth_max = 8, .tokens_max = 256 };

static bool wrong(struct exchange *x, const char *param, const char *message)
{
    exchange_refuse(x, &(struct reply_error){ .outcome = OUTCOME_BAD_BODY, .message = message, .param = param });
    return false;
}

static bool is_name(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        const char c = text.ptr[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' && c != '_' &&
            c != '.')
            return false;
    }
    return text.len > 0 && text.len <= METRIC_BYTES_MAX;
}

static bool read_score(const struct json_index *ix, uint32_t token, double *ret)
{
    bool yes;
    if (token == JSON_NONE)
        return false;
    if (json_bool(ix, token, &yes) == OK) {
        *ret = yes ? 1 : -1;
        return true;
    }
    return json_double(ix, token, ret) == OK && *ret >= -1 && *ret <= 1;
}

/* Which request, checked: strangers, and other teams, have no vote. */
static bool read_request(struct exchange *x, const struct json_index *ix, uint32_t token, struct span *ret)
{
    static const char which[] = "request_id must be the x-request-id of an answer from here.";
    if (token == JSON_NONE || json_string(&x->arena, ix, token, ret))
        return wrong(x, "request_id", which);
    switch (request_id_verify(&x->core->id_key, x->key->team, *ret)) {
    case OK:
        return true;
    case ERR_DENIED:
        exchange_refuse(x, &(struct reply_error){
                               .outcome = OUTCOME_DENIED,
                               .message = "No request of this key's team has this id: feedback must come with a key of "
                                          "the team that made the request.",
                               .param = "request_id",
                               .code = "not_your_request" });
        return false;
    default:
        return wrong(x, "request_id", which);
    }
}

static bool read_feedback(struct exchange *x, struct ledger_feedback *f)
{
    struct json_index ix;
    uint32_t id, score, metric;
    const enum err err = json_index(&x->arena, buf_span(&x->body), &limits, &ix, NULL);
    if (err == ERR_NOMEM) {
        exchange_refuse_with(x, OUTCOME_BUSY, NULL);
        return false;
    }
    if (err || json_kind(&ix, 0) != JSON_OBJECT)
        return wrong(x, NULL, "The body must be JSON: {\"request_id\": \"req_...\", \"score\": 1}.");
    if (json_get_once(&ix, 0, SPAN("request_id"), &id) || json_get_once(&ix, 0, SPAN("score"), &score) ||
        json_get_once(&ix, 0, SPAN("metric"), &metric))
        return wrong(x, NULL, "A field stands there twice.");
    if (!read_score(&ix, score, &f->score))
        return wrong(x, "score", "score must be a number from -1 (bad) to 1 (good), or true or false.");
    if (metric != JSON_NONE && (json_string(&x->arena, &ix, metric, &f->metric) || !is_name(f->metric)))
        return wrong(x, "metric", "metric must be 1 to 64 letters, digits, '-', '_' or '.'.");
    return read_request(x, &ix, id, &f->request_id);
}

/* Only what stands in the ring was taken: a full one is told, so that the client may vote again. */
static enum err keep(struct exchange *x, const struct ledger_feedback *f)
{
    struct buf *out = &x->core->record;
    buf_clear(out);
    enum err err = ledger_write_feedback(f, out);
    if (!err)
        err = board_record_put(x->core->region, buf_span(out));
    buf_clear(out);
    return err;
}

void exchange_feedback(struct exchange *x)
{
    struct ledger_feedback f = { .time_ms = x->wall_ms,
                                 .node = span_cstr(x->core->config->name),
                                 .team = x->key->team,
                                 .metric = SPAN("feedback") };
    struct buf body = BUF_INIT(64);
    if (!read_feedback(x, &f))
        return;
    enum err err = buf_append(&body, SPAN("{\"accepted\":true}\n"));
    buf_clear(&x->core->lines);
    if (!err)
        err = exchange_own_headers(x, true, &x->core->lines);
    if (!err)
        err = keep(x, &f);
    if (!err)
        err = exchange_send_whole(x, 202, SPAN("application/json"), &body);
    buf_release(&body);
    if (err)
        exchange_refuse_with(x, OUTCOME_BUSY, NULL);
    else
        exchange_finish(x, OUTCOME_OK, NULL, false);
}
