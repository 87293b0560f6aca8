/* changes: what happened lately, from whoever noticed it: people's changes and rollouts' decisions from the audit log,
 * what the rooms of the control plane told the journal, and expiries, which nobody does and are computed here. */
#include "controlplane/admin/commands.h"

#define AUDIT_MAX      5000u /* the newest lines of the audit log; with the journal's events and some thousand expiries */
#define ITEMS_MAX      12000u  /* it is no more than this, so an answer always fits its frame */
#define ITEM_BYTES_MAX 16384u  /* of one: five texts, six bytes to each byte when escaped, and the names */
#define TEXT_BYTES_MAX 300u    /* of one text of an audit line */
#define HEADS_MAX      1000u   /* looked through for overrides that ended: each costs a decoding */
#define KEYS_MAX       100000u /* likewise */
#define LINE_ARENA_MAX (16u << 20)

struct item {
    int64_t at_ms;
    uint32_t order; /* of arrival, among those of one moment */
    struct span json;
};
struct gathering {
    struct command_call *call;
    int64_t since_ms, until_ms;
    struct arena line; /* reset for each audit line */
    struct item *items;
    uint32_t count;
    uint64_t left_out;
    uint32_t keys_seen;
    enum err err;
};

static bool add(struct gathering *g, int64_t at_ms, struct span json)
{
    if (g->count == ITEMS_MAX) {
        g->left_out++;
        return true;
    }
    const struct span copy = arena_dup(g->call->arena, json);
    if (!copy.ptr) {
        g->err = ERR_NOMEM;
        return false;
    }
    g->items[g->count] = (struct item){ .at_ms = at_ms, .order = g->count, .json = copy };
    g->count++;
    return true;
}

struct change {
    const char *kind;
    struct span where, what, why, by;
};

static bool add_change(struct gathering *g, int64_t at_ms, const struct change *c)
{
    struct buf out = BUF_INIT(ITEM_BYTES_MAX);
    struct json_writer w;
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_member_i64(&w, "at_ms", at_ms);
    json_member_cstr(&w, "kind", c->kind);
    json_member_string(&w, "where", span_head(c->where, TEXT_BYTES_MAX));
    json_member_string(&w, "what", span_head(c->what, TEXT_BYTES_MAX));
    json_member_string(&w, "why", span_head(c->why, TEXT_BYTES_MAX));
    json_member_string(&w, "by", span_head(c->by, TEXT_BYTES_MAX));
    json_object_close(&w);
    enum err err = json_writer_end(&w);
    const bool added = err == OK && add(g, at_ms, buf_span(&out));
    buf_release(&out);
    g->err = err ? err : g->err;
    return added;
}

/* ---- the journal ---- */

static bool take_event(void *user, int64_t at_ms, struct span json)
{
    return add(user, at_ms, json);
}

/* ---- the audit log ---- */

static struct span text_of(struct gathering *g, const struct json_index *ix, uint32_t object, const char *name)
{
    struct span text = SPAN("");
    const uint32_t token = json_get(ix, object, span_cstr(name));
    if (token == JSON_NONE || json_kind(ix, token) != JSON_STRING || json_string(&g->line, ix, token, &text))
        return SPAN("");
    return text;
}

static bool line_at(struct arena *arena, struct span json, struct json_index *ret_ix, int64_t *ret_at_ms)
{
    arena_reset(arena);
    if (json_index(arena, json, &json_limits_default, ret_ix, NULL) != OK)
        return false;
    const uint32_t at = json_get(ret_ix, 0, SPAN("at_ms"));
    return at != JSON_NONE && json_i64(ret_ix, at, ret_at_ms) == OK;
}

static bool take_audit(void *user, UNUSED uint64_t seq, struct span json)
{
    struct gathering *g = user;
    struct json_index ix;
    int64_t at_ms;
    if (!line_at(&g->line, json, &ix, &at_ms) || at_ms < g->since_ms)
        return true;
    const uint32_t args = json_get(&ix, 0, SPAN("args"));
    struct span why = args == JSON_NONE ? SPAN("") : text_of(g, &ix, args, "reason");
    if (span_empty(why) && args != JSON_NONE)
        why = text_of(g, &ix, args, "message");
    return add_change(g, at_ms,
                      &(struct change){ .kind = "change",
                                        .where = text_of(g, &ix, 0, "command"),
                                        .what = text_of(g, &ix, 0, "message"),
                                        .why = why,
                                        .by = text_of(g, &ix, 0, "user") });
}

struct peek {
    struct gathering *g;
    int64_t at_ms;
    bool found;
};

static bool take_first(void *user, UNUSED uint64_t seq, struct span json)
{
    struct peek *peek = user;
    struct json_index ix;
    peek->found = line_at(&peek->g->line, json, &ix, &peek->at_ms);
    return !peek->found;
}

/* The log is in order of time: years of it need not be read for its last half hour. A clock that was set back may hide
 * a few lines of the time that came twice. */
static enum err find_first(struct gathering *g, uint64_t last, uint64_t *ret_from)
{
    uint64_t low = 1, high = last + 1;
    enum err err = OK;
    while (!err && low < high) {
        const uint64_t mid = low + (high - low) / 2;
        struct peek peek = { .g = g };
        err = versions_audit_each(g->call->service->versions, mid, take_first, &peek);
        if (peek.found && peek.at_ms < g->since_ms)
            low = mid + 1;
        else
            high = mid;
    }
    *ret_from = low;
    return err;
}

static enum err gather_audit(struct gathering *g)
{
    struct versions_numbers n;
    uint64_t from = 1;
    enum err err = versions_numbers(g->call->service->versions, &n);
    if (!err)
        err = find_first(g, n.audit_seq, &from);
    if (!err && n.audit_seq >= from + AUDIT_MAX) {
        g->left_out += n.audit_seq - AUDIT_MAX + 1 - from;
        from = n.audit_seq - AUDIT_MAX + 1;
    }
    if (!err && from <= n.audit_seq)
        err = versions_audit_each(g->call->service->versions, from, take_audit, g);
    return err;
}

/* ---- expiries ---- */

static void take_expiry(struct gathering *g, const struct override *o)
{
    static const char *const words[] = { "drain", "block", "freeze" };
    char what[64];
    snprintf(what, sizeof(what), "is free again: its %s expired", words[o->kind]);
    add_change(g, o->expires_at_ms,
               &(struct change){
                   .kind = "expiry", .where = o->target, .what = span_cstr(what), .why = o->reason, .by = o->by });
}

/* Each head says what held while it was live: an override ended then if its end lies in that time. */
static enum err gather_overrides(struct gathering *g)
{
    struct versions *versions = g->call->service->versions;
    int64_t until_ms = g->until_ms;
    uint64_t generation = 0;
    for (unsigned i = 0; i < HEADS_MAX; i++) {
        struct arena arena;
        struct head *head;
        arena_init(&arena, LINE_ARENA_MAX);
        const enum err err = versions_head_get(versions, &arena, generation, &head);
        const int64_t made_ms = err ? 0 : head->made_at_ms;
        for (uint32_t k = 0; !err && k < head->override_count; k++) {
            const struct override *o = &head->overrides[k];
            if (o->expires_at_ms >= g->since_ms && o->expires_at_ms > made_ms && o->expires_at_ms <= until_ms)
                take_expiry(g, o);
        }
        generation = err ? 0 : head->generation - 1;
        arena_release(&arena);
        if (err)
            return err == ERR_NOT_FOUND ? OK : err;
        if (made_ms < g->since_ms || generation == 0)
            break;
        until_ms = made_ms;
    }
    return OK;
}

static bool take_key(void *user, const struct key_record *key)
{
    struct gathering *g = user;
    if (!key->revoked && key->expires_at_ms >= g->since_ms && key->expires_at_ms > 0 &&
        key->expires_at_ms <= g->until_ms)
        add_change(g, key->expires_at_ms,
                   &(struct change){ .kind = "expiry",
                                     .where = key->id,
                                     .what = SPAN("expired: it is refused from now on"),
                                     .why = span_empty(key->replaced_by) ? SPAN("") : SPAN("its rotation is over"),
                                     .by = SPAN("") });
    return ++g->keys_seen < KEYS_MAX && g->err == OK;
}

/* ---- all together ---- */

static int by_time(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->at_ms != y->at_ms)
        return x->at_ms < y->at_ms ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static enum err gather(struct gathering *g)
{
    struct service *service = g->call->service;
    g->items = ARENA_ARRAY(g->call->arena, ITEMS_MAX, struct item);
    if (!g->items)
        return ERR_NOMEM;
    enum err err = gather_audit(g);
    if (!err)
        err = gather_overrides(g);
    if (!err)
        err = versions_keys_each(service->versions, take_key, g);
    if (!err && service->journal)
        journal_each(service->journal, g->since_ms, take_event, g);
    if (g->count > 1)
        qsort(g->items, g->count, sizeof(*g->items), by_time);
    return err ? err : g->err;
}

/* since_ms: from then on. {"events":[{"at_ms","kind","where","what","why","by" or "node"}],"left_out":older ones,
 * "now_ms"}, in order of time. */
enum admin_status command_changes(struct command_call *call)
{
    struct gathering g = { .call = call, .until_ms = call->now_ms };
    struct json_writer *w = call->result;
    uint64_t since_ms;
    if (span_to_u64(command_arg(call, "since_ms", SPAN("0")), &since_ms) != OK || since_ms > INT64_MAX)
        return command_fail(call, ADMIN_INVALID, "since_ms: a time in milliseconds since 1970 was expected");
    g.since_ms = (int64_t)since_ms;
    arena_init(&g.line, LINE_ARENA_MAX);
    const enum err err = gather(&g);
    arena_release(&g.line);
    if (err)
        return command_fail_err(call, "reading what happened", err);
    json_object_open(w);
    json_key(w, SPAN("events"));
    json_array_open(w);
    for (uint32_t i = 0; i < g.count; i++)
        json_put_raw(w, g.items[i].json);
    json_array_close(w);
    json_member_u64(w, "left_out", g.left_out);
    json_member_i64(w, "now_ms", call->now_ms);
    json_object_close(w);
    return ADMIN_OK;
}
