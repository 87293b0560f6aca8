#include "dataplane/account/ledger.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/units.h"

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
                                         [ENDPOINT_MODEL] = "model",
                                         [ENDPOINT_FEEDBACK] = "feedback" };
    REQUIRE((size_t)endpoint < ARRAY_LEN(names));
    return names[endpoint];
}

const char *ledger_finish_name(enum finish finish)
{
    static const char *const names[] = {
        [FINISH_NONE] = NULL,
        [FINISH_STOP] = "stop",
        [FINISH_LENGTH] = "length",
        [FINISH_TOOL_CALLS] = "tool_calls",
        [FINISH_CONTENT_FILTER] = "content_filter",
        [FINISH_REFUSAL] = "refusal",
        [FINISH_OTHER] = "other",
    };
    REQUIRE((size_t)finish < ARRAY_LEN(names));
    return names[finish];
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

/* A record is written for every request: some forty members into room made before, with one comparison each and no call
 * but for texts. Two fifths of what the general writer costs. */
struct line {
    char *start, *at;
};

/* Nothing more is written. What is too long by then is thrown away. */
static inline bool line_full(const struct line *line)
{
    return (size_t)(line->at - line->start) > LEDGER_LINE_MAX;
}

static inline void put(struct line *line, struct span literal)
{
    if (line_full(line))
        return;
    memcpy(line->at, literal.ptr, literal.len);
    line->at += literal.len;
}

static inline void put_u64(struct line *line, struct span key, uint64_t value)
{
    put(line, key);
    if (!line_full(line))
        line->at += units_put_u64(value, line->at);
}

static inline void put_i64(struct line *line, struct span key, int64_t value)
{
    put(line, key);
    if (value < 0)
        put(line, SPAN("-"));
    put_u64(line, SPAN(""), value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static inline void put_bool(struct line *line, struct span key, bool value)
{
    put(line, key);
    if (value)
        put(line, SPAN("true"));
    else
        put(line, SPAN("false"));
}

static inline void put_text(struct line *line, struct span key, struct span text)
{
    put(line, key);
    if (!line_full(line))
        line->at += json_quote(span_head(text, LEDGER_TEXT_MAX), line->at);
}

static inline void put_cstr(struct line *line, struct span key, const char *text)
{
    if (text) {
        put_text(line, key, span_cstr(text));
    } else {
        put(line, key);
        put(line, SPAN("null"));
    }
}

/* A member's name with what stands around it, one literal. The longest member is a name and a text in which every byte is
 * escaped. */
#define FIRST(name) SPAN("{\"" name "\":")
#define NEXT(name)  SPAN(",\"" name "\":")
_Static_assert(LEDGER_LINE_MAX + 64 + JSON_QUOTED_MAX(LEDGER_TEXT_MAX) <= LEDGER_ROOM, "a member past the end fits");

static void put_who(struct line *line, const struct ledger_record *r)
{
    char time[CLOCK_TEXT_BYTES];
    put_cstr(line, FIRST("time"), clock_format_wall(r->time_ms, time));
    put_text(line, NEXT("request_id"), r->request_id);
    put_text(line, NEXT("node"), r->node);
    if (r->kind == RECORD_SHADOW) {
        put(line, SPAN(",\"kind\":\"shadow\""));
        put_text(line, NEXT("of"), r->of);
        if (r->estimate_nano > 0)
            put_i64(line, NEXT("estimate_nano_usd"), r->estimate_nano);
    }
    put_u64(line, NEXT("worker"), r->worker);
    put_text(line, NEXT("client"), r->client);
    put_text(line, NEXT("key_id"), r->key_id);
    put_text(line, NEXT("team"), r->team);
}

static void put_unit(struct line *line, const struct ledger_record *r)
{
    char hash[16];
    for (size_t i = 0; i < sizeof(hash); i++)
        hash[i] = "0123456789abcdef"[r->unit >> (60 - 4 * i) & 15];
    put_text(line, NEXT("assignment"), r->assignment);
    put_text(line, NEXT("unit"), span_of(hash, r->unit_kind ? sizeof(hash) : 0));
    put_cstr(line, NEXT("unit_kind"), r->unit_kind ? r->unit_kind : "");
    put_cstr(line, NEXT("arm_why"), r->arm_why ? r->arm_why : "");
    if (r->forced)
        put_bool(line, NEXT("forced"), true);
}

static void put_features(struct line *line, const struct ledger_features *f)
{
    put(line, NEXT("features"));
    put_u64(line, FIRST("input_tokens"), f->input_tokens < UINT32_MAX ? f->input_tokens : UINT32_MAX);
    put_u64(line, NEXT("max_output"), f->max_output < UINT32_MAX ? f->max_output : UINT32_MAX);
    put_u64(line, NEXT("choices"), f->choices);
    put_bool(line, NEXT("tools"), f->tools);
    put_bool(line, NEXT("images"), f->images);
    put_bool(line, NEXT("audio"), f->audio);
    put_bool(line, NEXT("json"), f->json);
    put(line, SPAN("}"));
}

static void put_what(struct line *line, const struct ledger_record *r)
{
    put_cstr(line, NEXT("endpoint"), ledger_endpoint_name(r->endpoint));
    put_bool(line, NEXT("stream"), r->stream);
    put_text(line, NEXT("asked"), r->asked);
    put_text(line, NEXT("route"), r->route);
    put_text(line, NEXT("arm"), r->arm);
    put_u64(line, NEXT("policy_version"), r->policy_version);
    put_u64(line, NEXT("epoch"), r->epoch);
    put_u64(line, NEXT("generation"), r->generation);
    put_unit(line, r);
    if (r->features)
        put_features(line, r->features);
}

static void put_attempts(struct line *line, const struct ledger_record *r)
{
    put(line, NEXT("attempts"));
    put(line, SPAN("["));
    for (unsigned i = 0; i < r->attempt_count && i < ATTEMPTS_MAX; i++) {
        const struct ledger_attempt *a = &r->attempts[i];
        if (i > 0)
            put(line, SPAN(","));
        put_text(line, FIRST("model"), a->model);
        put_cstr(line, NEXT("why"), a->why);
        put_cstr(line, NEXT("because"), a->because);
        put_u64(line, NEXT("status"), a->status);
        put_cstr(line, NEXT("error"), a->error);
        put_u64(line, NEXT("ttft_us"), a->ttft_us);
        put_u64(line, NEXT("duration_us"), a->duration_us);
        put(line, SPAN("}"));
    }
    put(line, SPAN("]"));
}

static void put_outcome(struct line *line, const struct ledger_record *r)
{
    put_text(line, NEXT("model"), r->model);
    put_u64(line, NEXT("propensity_ppb"), r->propensity_ppb);
    put_u64(line, NEXT("status"), r->status);
    put_cstr(line, NEXT("outcome"), ledger_outcome_name(r->outcome));
    put_cstr(line, NEXT("error"), r->error);
    if (r->finish != FINISH_NONE)
        put_cstr(line, NEXT("finish"), ledger_finish_name(r->finish));
    if (r->message)
        put_cstr(line, NEXT("message"), r->message);
}

static void put_usage(struct line *line, const struct usage *u)
{
    put(line, NEXT("usage"));
    if (u->known) {
        put_u64(line, FIRST("input"), u->input);
        put_u64(line, NEXT("cached"), u->cached);
        put_u64(line, NEXT("cache_write"), u->cache_write);
        put_u64(line, NEXT("output"), u->output);
        put_u64(line, NEXT("reasoning"), u->reasoning);
        put(line, SPAN("}"));
    } else {
        put(line, SPAN("null"));
    }
    put_bool(line, NEXT("estimated"), u->estimated);
    put_bool(line, NEXT("suspect"), u->suspect);
}

static void put_account(struct line *line, const struct ledger_record *r)
{
    put_usage(line, &r->usage);
    put_i64(line, NEXT("cost_list_nano_usd"), r->cost.list_nano);
    put_i64(line, NEXT("cost_nano_usd"), r->cost.charged_nano);
    put_cstr(line, NEXT("price_source"), ledger_price_source_name(r->price_source));
    put_bool(line, NEXT("price_stale"), r->price_stale);
    put_u64(line, NEXT("book_version"), r->book_version);
    put_u64(line, NEXT("input_bytes"), r->input_bytes);
    put_u64(line, NEXT("output_bytes"), r->output_bytes);
    put_u64(line, NEXT("ttft_us"), r->ttft_us);
    put_u64(line, NEXT("total_us"), r->total_us);
    put_u64(line, NEXT("overhead_us"), r->overhead_us);
    put(line, SPAN("}"));
}

/* How long it became; nothing longer than LEDGER_LINE_MAX is whole. */
static size_t write_line(const struct ledger_record *r, char *start, bool cut)
{
    struct line line = { .start = start, .at = start };
    put_who(&line, r);
    put_what(&line, r);
    if (cut) {
        put_u64(&line, NEXT("attempt_count"), r->attempt_count);
        put_bool(&line, NEXT("cut"), true);
    } else {
        put_attempts(&line, r);
    }
    put_outcome(&line, r);
    put_account(&line, r);
    return (size_t)(line.at - line.start);
}

/* Straight into out, so that a caller who has made room there needs no memory more. */
enum err ledger_write(const struct ledger_record *record, struct buf *out)
{
    char *at;
    enum err err = buf_reserve(out, LEDGER_ROOM, &at);
    if (err)
        return err;
    size_t length = write_line(record, at, false);
    if (length > LEDGER_LINE_MAX) {
        /* Eleven texts of 80 bytes, six times that when every byte must be escaped, and some dozen numbers: this
         * fits. */
        struct ledger_record shorter = *record;
        shorter.message = NULL;
        struct span *texts[] = { &shorter.client, &shorter.request_id, &shorter.of,    &shorter.node,
                                 &shorter.key_id, &shorter.team,       &shorter.asked, &shorter.route,
                                 &shorter.arm,    &shorter.assignment, &shorter.model };
        for (size_t i = 0; i < ARRAY_LEN(texts); i++)
            *texts[i] = span_head(*texts[i], LEDGER_TEXT_MAX * 2 / 5);
        length = write_line(&shorter, at, true);
        REQUIRE(length <= LEDGER_LINE_MAX);
    }
    buf_commit(out, length);
    return OK;
}

enum err ledger_write_feedback(const struct ledger_feedback *f, struct buf *out)
{
    char time[CLOCK_TEXT_BYTES];
    struct json_writer w;
    const size_t before = out->len;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "time", clock_format_wall(f->time_ms, time));
    json_member_string(&w, "request_id", span_head(f->request_id, LEDGER_TEXT_MAX));
    json_member_string(&w, "node", span_head(f->node, LEDGER_TEXT_MAX));
    json_member_cstr(&w, "kind", "feedback");
    json_member_string(&w, "team", span_head(f->team, LEDGER_TEXT_MAX));
    json_member_string(&w, "metric", span_head(f->metric, LEDGER_TEXT_MAX));
    json_key(&w, SPAN("score"));
    json_put_double(&w, f->score);
    json_object_close(&w);
    const enum err err = json_writer_end(&w);
    if (err)
        buf_truncate(out, before);
    return err;
}

/* Behind the prompt's first quote stands at most: its flag, the answer's name, the answer's flag, the end. */
#define CONTENT_TAIL ",\"prompt_cut\":false,\"answer\":,\"answer_cut\":false}"

static bool put_some(struct line *line, struct span text, bool cut, size_t room)
{
    const struct span whole = cut ? json_whole_characters(text) : text;
    size_t taken;
    line->at += json_quote_some(whole, room, line->at, &taken);
    return cut || taken < whole.len;
}

enum err ledger_write_content(const struct ledger_content *c, struct buf *out)
{
    char *start, time[CLOCK_TEXT_BYTES];
    enum err err = buf_reserve(out, LEDGER_ROOM, &start);
    if (err)
        return err;
    struct line line = { .start = start, .at = start };
    put_cstr(&line, FIRST("time"), clock_format_wall(c->time_ms, time));
    put_text(&line, NEXT("request_id"), c->request_id);
    put_text(&line, NEXT("node"), c->node);
    put(&line, SPAN("," RECORD_CONTENT_MARK));
    put_text(&line, NEXT("of"), c->request_id);
    put_text(&line, NEXT("team"), c->team);
    put(&line, NEXT("prompt"));
    /* Four texts of LEDGER_TEXT_MAX, all escaped, leave three eighths of the line. */
    const size_t used = (size_t)(line.at - start) + sizeof(CONTENT_TAIL) - 1;
    REQUIRE(used + 1024 <= LEDGER_LINE_MAX);
    const size_t room = LEDGER_LINE_MAX - used;
    struct line measure = line; /* how long the answer becomes; written over */
    (void)put_some(&measure, c->answer, c->answer_cut, room);
    const size_t answer = size_min((size_t)(measure.at - line.at), room / 2);
    const char *prompt_at = line.at;
    const bool prompt_cut = put_some(&line, c->prompt, c->prompt_cut, room - answer);
    const size_t left = room - (size_t)(line.at - prompt_at);
    put_bool(&line, NEXT("prompt_cut"), prompt_cut);
    put(&line, NEXT("answer"));
    const bool answer_cut = put_some(&line, c->answer, c->answer_cut, left);
    put_bool(&line, NEXT("answer_cut"), answer_cut);
    put(&line, SPAN("}"));
    REQUIRE((size_t)(line.at - start) <= LEDGER_LINE_MAX);
    buf_commit(out, (size_t)(line.at - start));
    return OK;
}
