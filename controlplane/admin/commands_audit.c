/* The audit log, in pages: a page always fits a frame, however long the log and its lines are.
 *
 * The log's lines are in order of time. Asked for its newest lines, a first walk finds where those begin that match,
 * the second writes them until the page is full and says where the next begins. */
#include "common/clock.h"
#include "controlplane/admin/commands.h"

#define LINES_DEFAULT  50u
#define LINES_MAX      100000u    /* remembered in the first walk, 8 bytes each */
#define PAGE_BYTES_MAX (1u << 20) /* of lines; one line more than fits is put where there is none yet */
#define LINE_ARENA_MAX (16u << 20)

struct search {
    struct command_call *call;
    struct arena line; /* reset for each */
    struct span user, command;
    int64_t since_ms;
    uint64_t *ring, ring_size; /* the last sequences that match */
    uint64_t matched, put, limit;
    uint64_t next; /* where the next page begins; 0: nothing is left */
    size_t bytes;
};

static bool pattern_matches(struct arena *arena, const struct json_index *ix, const char *name, struct span pattern)
{
    struct span text;
    const uint32_t token = json_get(ix, 0, span_cstr(name));
    return span_empty(pattern) ||
           (token != JSON_NONE && json_string(arena, ix, token, &text) == OK && span_glob(pattern, text));
}

static bool filters(const struct search *s)
{
    return s->since_ms != 0 || !span_empty(s->user) || !span_empty(s->command);
}

static bool matches(struct search *s, struct span json)
{
    struct json_index ix;
    int64_t at_ms = 0;
    if (!filters(s))
        return true;
    arena_reset(&s->line);
    if (json_index(&s->line, json, &json_limits_default, &ix, NULL) != OK)
        return false;
    const uint32_t at = json_get(&ix, 0, SPAN("at_ms"));
    return (s->since_ms == 0 || (at != JSON_NONE && json_i64(&ix, at, &at_ms) == OK && at_ms >= s->since_ms)) &&
           pattern_matches(&s->line, &ix, "user", s->user) && pattern_matches(&s->line, &ix, "command", s->command);
}

static bool remember(void *user, uint64_t seq, struct span json)
{
    struct search *s = user;
    if (matches(s, json))
        s->ring[s->matched++ % s->ring_size] = seq;
    return true;
}

static bool put_line(void *user, uint64_t seq, struct span json)
{
    struct search *s = user;
    struct json_writer *w = s->call->result;
    if (!matches(s, json))
        return true;
    if (s->put == s->limit || (s->put && s->bytes + json.len > PAGE_BYTES_MAX)) {
        s->next = seq;
        return false;
    }
    json_object_open(w);
    json_member_u64(w, "seq", seq);
    json_key(w, SPAN("entry"));
    json_put_raw(w, json);
    json_object_close(w);
    s->put++;
    s->bytes += json.len;
    return w->err == OK;
}

static bool number(const struct command_call *call, const char *name, uint64_t otherwise, uint64_t *ret)
{
    const struct span text = command_arg(call, name, SPAN(""));
    *ret = otherwise;
    return span_empty(text) || span_to_u64(text, ret) == OK;
}

/* Sequence of the oldest of the `limit` newest lines that match. */
static enum err find_newest(struct search *s, uint64_t *ret_from)
{
    struct versions_numbers n;
    enum err err = versions_numbers(s->call->service->versions, &n);
    if (err)
        return err;
    if (!filters(s)) {
        *ret_from = n.audit_seq > s->limit ? n.audit_seq - s->limit + 1 : 1;
        return OK;
    }
    s->ring_size = s->limit;
    s->ring = ARENA_ARRAY(s->call->arena, s->ring_size, uint64_t);
    if (!s->ring)
        return ERR_NOMEM;
    err = versions_audit_each(s->call->service->versions, 1, remember, s);
    *ret_from = s->matched == 0             ? UINT64_MAX
                : s->matched < s->ring_size ? s->ring[0]
                                            : s->ring[s->matched % s->ring_size];
    return err;
}

/* from: a sequence to begin with, as `next` of the page before; without it, the newest `limit`. user and command may be
 * patterns. {"entries":[...],"next":SEQ or null,"last":the log's newest}. */
enum admin_status command_audit_list(struct command_call *call)
{
    struct versions_numbers n;
    struct search s = { .call = call,
                        .user = command_arg(call, "user", SPAN("")),
                        .command = command_arg(call, "command", SPAN("")) };
    uint64_t since_ms, from;
    if (!number(call, "limit", LINES_DEFAULT, &s.limit) || s.limit == 0 || s.limit > LINES_MAX)
        return command_fail(call, ADMIN_INVALID, "limit: a number from 1 to %u was expected", LINES_MAX);
    if (!number(call, "from", 0, &from) || !number(call, "since_ms", 0, &since_ms) || since_ms > INT64_MAX)
        return command_fail(call, ADMIN_INVALID, "from and since_ms are numbers");
    s.since_ms = (int64_t)since_ms;
    enum err err = versions_numbers(call->service->versions, &n);
    arena_init(&s.line, LINE_ARENA_MAX);
    if (!err && from == 0)
        err = find_newest(&s, &from);
    json_object_open(call->result);
    json_key(call->result, SPAN("entries"));
    json_array_open(call->result);
    if (!err && from <= n.audit_seq)
        err = versions_audit_each(call->service->versions, from, put_line, &s);
    json_array_close(call->result);
    json_key(call->result, SPAN("next"));
    if (s.next)
        json_put_u64(call->result, s.next);
    else
        json_put_null(call->result);
    json_member_u64(call->result, "last", n.audit_seq);
    json_object_close(call->result);
    arena_release(&s.line);
    return err ? command_fail_err(call, "reading the audit log", err) : ADMIN_OK;
}
