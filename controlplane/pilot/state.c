#include "controlplane/pilot/state.h"
#include "common/json_fields.h"

#define BLOB            "rollout"
#define CHECK_ARENA_MAX ((size_t)16 << 20)

bool state_rolling(const struct pilot_state *state)
{
    return state->rollout && rollout_live(state->rollout);
}

bool state_experimenting(const struct pilot_state *state)
{
    return state->experiment && state->experiment->ended_at_ms == 0;
}

bool state_shadowing(const struct pilot_state *state)
{
    return state->shadow && state->shadow->ended_at_ms == 0;
}

char *state_id(const char *kind, uint64_t id, char *out)
{
    snprintf(out, STATE_ID_BYTES, "%s-%llu", kind, (unsigned long long)id);
    return out;
}

bool state_routes_meet(const struct span_list *a, const struct span_list *b)
{
    uint32_t i = 0, k = 0;
    if (a->count == 0 || b->count == 0)
        return true;
    while (i < a->count && k < b->count) {
        const int order = span_cmp(a->items[i], b->items[k]);
        if (order == 0)
            return true;
        i += order < 0;
        k += order > 0;
    }
    return false;
}

static int by_name(const void *a, const void *b)
{
    return span_cmp(*(const struct span *)a, *(const struct span *)b);
}

void state_routes_sort(struct span_list *routes)
{
    struct span *items = (struct span *)(uintptr_t)routes->items;
    uint32_t count = 0;
    if (routes->count == 0)
        return;
    qsort(items, routes->count, sizeof(*items), by_name);
    for (uint32_t i = 0; i < routes->count; i++) {
        if (count == 0 || !span_eq(items[i], items[count - 1]))
            items[count++] = items[i];
    }
    routes->count = count;
}

/* ---- JSON ---- */

static void put_routes(const struct span_list *routes, struct json_writer *w)
{
    json_key(w, SPAN("routes"));
    json_array_open(w);
    for (uint32_t i = 0; i < routes->count; i++)
        json_put_string(w, routes->items[i]);
    json_array_close(w);
}

static void put_experiment(const struct state_experiment *e, struct json_writer *w)
{
    char salt[2 * sizeof(e->salt) + 1];
    json_object_open(w);
    json_member_u64(w, "id", e->id);
    json_key(w, SPAN("arms"));
    json_array_open(w);
    for (uint32_t i = 0; i < e->arm_count; i++) {
        json_object_open(w);
        json_member_u64(w, "version", e->arms[i].version);
        json_member_u64(w, "share", e->arms[i].share);
        json_object_close(w);
    }
    json_array_close(w);
    json_member_cstr(w, "unit", rollout_unit_name(e->unit));
    json_member_string(w, "header", e->header);
    put_routes(&e->routes, w);
    json_key(w, SPAN("metrics"));
    rollout_guards_json(e->metrics, e->metric_count, w);
    json_member_cstr(w, "salt", hex_encode(e->salt, sizeof(e->salt), salt));
    json_member_u64(w, "generation", e->generation);
    json_member_i64(w, "started_at_ms", e->started_at_ms);
    json_member_i64(w, "ended_at_ms", e->ended_at_ms);
    json_member_string(w, "by", e->by);
    json_member_string(w, "ended_why", e->ended_why);
    json_object_close(w);
}

static void put_shadow(const struct state_shadow *s, struct json_writer *w)
{
    json_object_open(w);
    json_member_u64(w, "id", s->id);
    json_member_u64(w, "version", s->version);
    put_routes(&s->routes, w);
    json_member_u64(w, "share_ppm", s->share_ppm);
    json_member_i64(w, "budget_nano", s->budget_nano);
    json_member_bool(w, "tools", s->tools);
    json_member_u64(w, "generation", s->generation);
    json_member_i64(w, "started_at_ms", s->started_at_ms);
    json_member_i64(w, "ended_at_ms", s->ended_at_ms);
    json_member_string(w, "by", s->by);
    json_member_string(w, "ended_why", s->ended_why);
    json_object_close(w);
}

void state_json(const struct pilot_state *state, struct json_writer *w)
{
    json_object_open(w);
    json_member_u64(w, "schema", STATE_SCHEMA);
    json_member_u64(w, "last_id", state->last_id);
    json_key(w, SPAN("lock"));
    if (state->lock.at_ms) {
        json_object_open(w);
        json_member_i64(w, "at_ms", state->lock.at_ms);
        json_member_string(w, "by", state->lock.by);
        json_member_string(w, "reason", state->lock.reason);
        json_object_close(w);
    } else {
        json_put_null(w);
    }
    json_key(w, SPAN("rollout"));
    if (state->rollout)
        rollout_json(state->rollout, w);
    else
        json_put_null(w);
    json_key(w, SPAN("experiment"));
    if (state->experiment)
        put_experiment(state->experiment, w);
    else
        json_put_null(w);
    json_key(w, SPAN("shadow"));
    if (state->shadow)
        put_shadow(state->shadow, w);
    else
        json_put_null(w);
    json_object_close(w);
}

static void read_arms(struct json_fields *f, uint32_t array, struct state_experiment *e)
{
    uint32_t sum = 0;
    for (uint32_t t = f->err ? JSON_NONE : json_first(f->ix, array); t != JSON_NONE && !f->err;
         t = json_next(f->ix, array, t)) {
        const struct state_arm arm = { .version = (uint32_t)json_field_u64(f, t, "version", UINT32_MAX),
                                       .share = (uint32_t)json_field_u64(f, t, "share", ASSIGNMENT_BUCKETS) };
        sum += arm.share;
        if (e->arm_count == EXPERIMENT_ARMS_MAX || arm.version == 0 || arm.share == 0 || sum > ASSIGNMENT_BUCKETS)
            f->err = f->err ? f->err : ERR_CORRUPT;
        else
            e->arms[e->arm_count++] = arm;
    }
    if (!f->err && e->arm_count < 2)
        f->err = ERR_CORRUPT;
}

static void read_experiment(struct json_fields *f, uint32_t object, struct state_experiment **ret)
{
    struct state_experiment *e = ARENA_NEW(f->arena, struct state_experiment);
    if (!e) {
        f->err = ERR_NOMEM;
        return;
    }
    e->id = json_field_u64(f, object, "id", UINT64_MAX);
    read_arms(f, json_field(f, object, "arms", JSON_ARRAY), e);
    rollout_unit_read(f, object, &e->unit, &e->header);
    rollout_routes_read(f, object, &e->routes);
    rollout_guards_read(f, json_field(f, object, "metrics", JSON_ARRAY), e->metrics, &e->metric_count);
    const struct span salt = json_field_text(f, object, "salt");
    e->generation = json_field_u64(f, object, "generation", UINT64_MAX);
    e->started_at_ms = json_field_i64(f, object, "started_at_ms");
    e->ended_at_ms = json_field_i64(f, object, "ended_at_ms");
    e->by = json_field_text(f, object, "by");
    e->ended_why = json_field_text(f, object, "ended_why");
    if (!f->err && (hex_decode(salt, e->salt, sizeof(e->salt)) != OK || e->metric_count == 0))
        f->err = ERR_CORRUPT;
    *ret = e;
}

static void read_shadow(struct json_fields *f, uint32_t object, struct state_shadow **ret)
{
    struct state_shadow *s = ARENA_NEW(f->arena, struct state_shadow);
    if (!s) {
        f->err = ERR_NOMEM;
        return;
    }
    s->id = json_field_u64(f, object, "id", UINT64_MAX);
    s->version = (uint32_t)json_field_u64(f, object, "version", UINT32_MAX);
    rollout_routes_read(f, object, &s->routes);
    s->share_ppm = (uint32_t)json_field_u64(f, object, "share_ppm", 1000000);
    s->budget_nano = (int64_t)json_field_u64(f, object, "budget_nano", (uint64_t)SHADOW_ALLOWANCE_MAX);
    s->tools = json_field_bool(f, object, "tools");
    s->generation = json_field_u64(f, object, "generation", UINT64_MAX);
    s->started_at_ms = json_field_i64(f, object, "started_at_ms");
    s->ended_at_ms = json_field_i64(f, object, "ended_at_ms");
    s->by = json_field_text(f, object, "by");
    s->ended_why = json_field_text(f, object, "ended_why");
    *ret = s;
}

static void read_rollout(struct json_fields *f, uint32_t object, struct rollout **ret)
{
    *ret = ARENA_NEW(f->arena, struct rollout);
    f->err = *ret ? rollout_read(f->arena, f->ix, object, *ret) : ERR_NOMEM;
}

enum err state_read(struct arena *arena, struct span json, struct pilot_state *ret)
{
    struct json_index ix;
    struct pilot_state state = { 0 };
    const enum err err = json_index(arena, json, &json_limits_default, &ix, NULL);
    if (err)
        return err == ERR_NOMEM ? err : ERR_CORRUPT;
    struct json_fields f = { .arena = arena, .ix = &ix };
    const uint64_t schema = json_field_u64(&f, 0, "schema", UINT32_MAX);
    if (!f.err && schema != STATE_SCHEMA)
        return ERR_UNSUPPORTED;
    state.last_id = json_field_u64(&f, 0, "last_id", UINT64_MAX);
    const uint32_t lock = json_field_or_null(&f, 0, "lock", JSON_OBJECT);
    if (lock != JSON_NONE)
        state.lock = (struct state_lock){ .at_ms = json_field_i64(&f, lock, "at_ms"),
                                          .by = json_field_text(&f, lock, "by"),
                                          .reason = json_field_text(&f, lock, "reason") };
    const uint32_t rollout = json_field_or_null(&f, 0, "rollout", JSON_OBJECT);
    if (rollout != JSON_NONE)
        read_rollout(&f, rollout, &state.rollout);
    const uint32_t experiment = json_field_or_null(&f, 0, "experiment", JSON_OBJECT);
    if (experiment != JSON_NONE)
        read_experiment(&f, experiment, &state.experiment);
    const uint32_t shadow = json_field_or_null(&f, 0, "shadow", JSON_OBJECT);
    if (shadow != JSON_NONE)
        read_shadow(&f, shadow, &state.shadow);
    if (!f.err)
        *ret = state;
    return f.err;
}

enum err state_load(struct versions *versions, struct arena *arena, struct pilot_state *ret)
{
    struct span blob;
    const enum err err = versions_blob_get(versions, arena, SPAN(BLOB), &blob);
    if (err != ERR_NOT_FOUND)
        return err ? err : state_read(arena, blob, ret);
    *ret = (struct pilot_state){ 0 };
    return OK;
}

/* A state that cannot be read again would take even rollback with it. */
static enum err check_readable(struct span json)
{
    struct arena arena;
    struct pilot_state again;
    arena_init(&arena, CHECK_ARENA_MAX);
    const enum err err = state_read(&arena, json, &again);
    arena_release(&arena);
    return err == OK || err == ERR_NOMEM ? err : ERR_INVALID;
}

enum err state_store(struct versions *versions, const struct pilot_state *state)
{
    struct buf json = BUF_INIT(STATE_BYTES_MAX);
    struct json_writer w;
    json_writer_init(&w, &json);
    state_json(state, &w);
    enum err err = json_writer_end(&w);
    if (!err)
        err = check_readable(buf_span(&json));
    if (!err)
        err = versions_blob_put(versions, SPAN(BLOB), buf_span(&json));
    buf_release(&json);
    return err;
}
