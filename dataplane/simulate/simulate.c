#include "dataplane/simulate/simulate.h"
#include "common/fault.h"
#include "dataplane/account/usage.h"
#include "dataplane/simulate/simulate_internal.h"

#define ARENA_MAX    ((size_t)1 << 30) /* names, cells and decisions; records with ever new names end the simulation */
#define SCRATCH_MAX  (8u << 20)        /* one decision among the largest tiers */
#define REFUSALS_MAX 1000u             /* teams x names x reasons told apart; the rest is counted as "other" */

/* ---- names to numbers ---- */

static void *grown(void *items, uint32_t count, uint32_t *room, size_t bytes)
{
    if (count < *room)
        return items;
    const uint32_t more = *room ? *room * 2 : 64;
    void *fresh = fault_realloc(items, (size_t)more * bytes);
    if (fresh)
        *room = more;
    return fresh;
}

/* Ids are stored plus one, as NULL is "absent". */
static uint32_t id_of(const struct strmap *map, struct span key)
{
    const uintptr_t stored = (uintptr_t)strmap_get(map, key);
    return stored ? (uint32_t)stored - 1 : ESTIMATE_NONE;
}

static enum err id_put(struct simulate *s, struct strmap *map, struct span key, uint32_t id)
{
    const struct span copy = arena_dup(&s->arena, key);
    return copy.ptr ? strmap_put(map, copy, (void *)((uintptr_t)id + 1)) : ERR_NOMEM;
}

static enum err model_id(struct simulate *s, struct span name, uint32_t *ret)
{
    *ret = id_of(&s->model_ids, name);
    if (*ret != ESTIMATE_NONE)
        return OK;
    struct estimate_model *models = grown(s->models, s->model_count, &s->models_room, sizeof(*models));
    if (!models)
        return ERR_NOMEM;
    s->models = models;
    const struct span copy = arena_dup(&s->arena, name);
    if (!copy.ptr)
        return ERR_NOMEM;
    models[s->model_count] = (struct estimate_model){ .name = copy };
    *ret = s->model_count++;
    return id_put(s, &s->model_ids, copy, *ret);
}

static enum err route_id(struct simulate *s, struct span name, uint32_t *ret)
{
    const struct span key = name.ptr ? name : SPAN("");
    *ret = id_of(&s->route_ids, key);
    if (*ret != ESTIMATE_NONE)
        return OK;
    struct span *routes = grown(s->routes, s->route_count, &s->routes_room, sizeof(*routes));
    if (!routes)
        return ERR_NOMEM;
    s->routes = routes;
    routes[s->route_count] = arena_dup(&s->arena, key);
    if (!routes[s->route_count].ptr)
        return ERR_NOMEM;
    *ret = s->route_count++;
    return id_put(s, &s->route_ids, key, *ret);
}

static enum err cell_id(struct simulate *s, uint32_t route, uint32_t model, uint32_t *ret)
{
    const uint32_t both[2] = { route, model };
    const struct span key = span_of(both, sizeof(both));
    *ret = id_of(&s->cell_ids, key);
    if (*ret != ESTIMATE_NONE)
        return OK;
    struct estimate_cell *cells = grown(s->cells, s->cell_count, &s->cells_room, sizeof(*cells));
    if (!cells)
        return ERR_NOMEM;
    s->cells = cells;
    cells[s->cell_count] = (struct estimate_cell){ .route = route, .model = model };
    *ret = s->cell_count++;
    return id_put(s, &s->cell_ids, key, *ret);
}

/* ---- beginning ---- */

static enum err read_models(struct simulate *s, enum estimate_target t)
{
    const struct arm_view *arm = setting_arm(s->settings[t]);
    const struct artifact *a = arm->compiled->artifact;
    s->ids[t] = ARENA_ARRAY(&s->arena, (size_t)a->model_count + 1, uint32_t);
    if (!s->ids[t])
        return ERR_NOMEM;
    for (uint32_t i = 0; i < a->model_count; i++) {
        const enum err err = model_id(s, a->models[i].name, &s->ids[t][i]);
        if (err)
            return err;
        struct estimate_model *model = &s->models[s->ids[t][i]];
        const struct model_view *view = &arm->models[i];
        model->price[t] = view->price;
        model->discount_ppm[t] = a->providers[a->models[i].provider].discount_ppm;
        model->ttft_us = view->ttft_ewma_us;
        model->errors_ppm = view->errors_ppm;
        model->samples = view->samples;
    }
    return OK;
}

enum err simulate_new(const struct simulate_input *input, struct simulate **ret, const char **ret_why)
{
    struct simulate *s = fault_calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    arena_init(&s->arena, ARENA_MAX);
    arena_init(&s->scratch, SCRATCH_MAX);
    struct strmap *maps[] = { &s->model_ids, &s->route_ids, &s->cell_ids, &s->decisions, &s->refusals };
    for (size_t i = 0; i < ARRAY_LEN(maps); i++)
        strmap_init(maps[i], &s->arena);
    s->now_ms = input->now_ms;
    const struct span artifacts[ESTIMATE_TARGETS] = { input->live, input->candidate };
    enum err err = OK;
    *ret_why = "out of memory";
    for (unsigned t = 0; t < ESTIMATE_TARGETS && !err; t++) {
        const struct setting_objects objects = {
            .artifact = artifacts[t], .head = input->head, .evidence = input->evidence, .directory = input->directory
        };
        err = setting_new(&objects, &s->settings[t], ret_why);
        if (!err)
            err = read_models(s, (enum estimate_target)t);
    }
    if (err) {
        simulate_free(s);
        return err;
    }
    *ret = s;
    return OK;
}

void simulate_free(struct simulate *simulate)
{
    if (!simulate)
        return;
    for (unsigned t = 0; t < ESTIMATE_TARGETS; t++)
        setting_free(simulate->settings[t]);
    free(simulate->models);
    free(simulate->routes);
    free(simulate->cells);
    free(simulate->rows);
    arena_release(&simulate->scratch);
    arena_release(&simulate->arena);
    free(simulate);
}

/* ---- deciding ---- */

static bool ask_of(const struct record *r, struct ask *ret)
{
    static const struct {
        const char *name;
        enum endpoint endpoint;
    } endpoints[] = { { "chat", ENDPOINT_CHAT },
                      { "completions", ENDPOINT_COMPLETIONS },
                      { "embeddings", ENDPOINT_EMBEDDINGS } };
    *ret = (struct ask){ .model = r->asked,
                         .stream = r->stream,
                         .has_tools = r->tools,
                         .has_images = r->images,
                         .has_audio = r->audio,
                         .wants_json = r->json,
                         .max_output_tokens = r->max_output,
                         .input_bytes = (uint64_t)r->input_tokens_est * USAGE_BYTES_PER_TOKEN,
                         .choices = r->choices ? r->choices : 1 };
    for (size_t i = 0; i < ARRAY_LEN(endpoints); i++)
        if (span_eq(r->endpoint, span_cstr(endpoints[i].name)))
            ret->endpoint = endpoints[i].endpoint;
    return r->has_features && ret->endpoint != ENDPOINT_NONE;
}

/* What tells decisions apart: the verdict, and cells with their probabilities. */
struct outline {
    uint32_t verdict, count;
    struct {
        uint32_t cell, ppb;
    } choices[TIERS_MAX * TIER_MEMBERS_MAX];
};

static enum err intern(struct simulate *s, const struct outline *o, struct decided **ret)
{
    const struct span key = span_of(o, offsetof(struct outline, choices) + (size_t)o->count * sizeof(o->choices[0]));
    *ret = strmap_get(&s->decisions, key);
    if (*ret)
        return OK;
    struct decided *d = ARENA_NEW(&s->arena, struct decided);
    struct estimate_choice *choices = ARENA_ARRAY(&s->arena, (size_t)o->count + 1, struct estimate_choice);
    const struct span copy = arena_dup(&s->arena, key);
    if (!d || !choices || !copy.ptr)
        return ERR_NOMEM;
    uint64_t sum = 0; /* each is rounded; together they are one */
    for (uint32_t i = 0; i < o->count; i++)
        sum += o->choices[i].ppb;
    for (uint32_t i = 0; i < o->count; i++)
        choices[i] = (struct estimate_choice){ .cell = o->choices[i].cell, .p = o->choices[i].ppb / (double)sum };
    *d = (struct decided){ .decision = { .choices = choices, .count = o->count },
                           .verdict = (enum setting_verdict)o->verdict };
    *ret = d;
    return strmap_put(&s->decisions, copy, d);
}

static enum err decided_of(struct simulate *s, enum estimate_target t, uint32_t route,
                           const struct setting_answer *answer, struct decided **ret)
{
    struct outline o = { .verdict = answer->verdict };
    const struct distribution *d = &answer->distribution;
    for (uint32_t i = 0; i < d->all_count; i++) {
        if (d->first_ppb[i] == 0)
            continue;
        const enum err err = cell_id(s, route, s->ids[t][d->all[i].model], &o.choices[o.count].cell);
        if (err)
            return err;
        o.choices[o.count++].ppb = d->first_ppb[i];
    }
    return intern(s, &o, ret);
}

/* ---- refusals ---- */

static const char *reason_of(const struct setting_answer *answer)
{
    return answer->verdict == SETTING_REFUSED ? plan_reason_name(answer->reason)
                                              : setting_verdict_name(answer->verdict);
}

static enum err note_refusal(struct simulate *s, const struct record *r, const struct ask *ask,
                             const struct setting_answer *answer)
{
    const char *reason = reason_of(answer);
    const char *key =
        arena_printf(&s->scratch, SPAN_FMT "\n" SPAN_FMT "\n%s", SPAN_ARG(r->team), SPAN_ARG(r->asked), reason);
    if (!key)
        return ERR_NOMEM;
    const bool full = s->refusals.count >= REFUSALS_MAX && !strmap_has(&s->refusals, span_cstr(key));
    if (full)
        key = "other";
    struct refusals *group = strmap_get(&s->refusals, span_cstr(key));
    if (!group) {
        const struct span copy = arena_dup(&s->arena, span_cstr(key));
        char *text = full ? NULL
                          : setting_explain(s->settings[ESTIMATE_CANDIDATE], &s->arena, r->team, r->key_id, ask,
                                            s->now_ms, answer);
        group = ARENA_NEW(&s->arena, struct refusals);
        if (!group || !copy.ptr)
            return ERR_NOMEM;
        *group = (struct refusals){ .team = full ? SPAN("") : arena_dup(&s->arena, r->team),
                                    .asked = full ? SPAN("") : arena_dup(&s->arena, r->asked),
                                    .reason = full ? "other" : reason,
                                    .text = text ? text : "" };
        const enum err err = strmap_put(&s->refusals, copy, group);
        if (err)
            return err;
    }
    group->requests++;
    return OK;
}

/* ---- rows ---- */

static uint32_t clamp(uint64_t value)
{
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX - 1;
}

static bool is_failure(const struct record *r)
{
    return r->attempt_count > 0 && (span_eq(r->outcome, SPAN("error")) || span_eq(r->outcome, SPAN("truncated")));
}

static enum err fill_row(struct simulate *s, const struct record *r, uint32_t route, struct estimate_row *row)
{
    enum err err = OK;
    row->time_ms = r->time_ms;
    row->cell = row->served = ESTIMATE_NONE;
    row->asked_input = r->input_tokens_est;
    row->cost_nano = r->cost_nano;
    if (r->attempt_count > 0) {
        uint32_t model;
        err = model_id(s, r->attempts[0].model, &model);
        if (!err)
            err = cell_id(s, route, model, &row->cell);
        row->mu = (float)(r->propensity_ppb / 1e9);
        s->propensity_missing += r->propensity_ppb == 0;
    }
    if (!err && !span_empty(r->model))
        err = model_id(s, r->model, &row->served);
    row->ttft_us = clamp(r->ttft_us);
    row->failed = is_failure(r);
    row->has_usage = r->usage_known;
    row->input = clamp(r->input);
    row->cached = clamp(r->cached);
    row->cache_write = clamp(r->cache_write);
    row->output = clamp(r->output);
    row->reasoning = clamp(r->reasoning);
    return err;
}

static enum err add_row(struct simulate *s, const struct estimate_row *row)
{
    if (s->row_count == s->rows_room) {
        const size_t room = s->rows_room ? s->rows_room * 2 : 4096;
        struct estimate_row *rows = fault_realloc(s->rows, room * sizeof(*rows));
        if (!rows)
            return ERR_NOMEM;
        s->rows = rows;
        s->rows_room = room;
    }
    s->rows[s->row_count++] = *row;
    return OK;
}

static enum err decide_both(struct simulate *s, const struct record *r, const struct ask *ask, uint32_t route,
                            struct estimate_row *row)
{
    struct setting_answer answers[ESTIMATE_TARGETS];
    struct decided *decided[ESTIMATE_TARGETS];
    for (unsigned t = 0; t < ESTIMATE_TARGETS; t++) {
        enum err err = setting_decide(s->settings[t], &s->scratch, r->team, r->key_id, ask, s->now_ms, &answers[t]);
        if (!err)
            err = decided_of(s, (enum estimate_target)t, route, &answers[t], &decided[t]);
        if (err)
            return err;
        row->decisions[t] = &decided[t]->decision;
        s->refused[t] += answers[t].verdict != SETTING_OK;
    }
    const bool live = answers[ESTIMATE_LIVE].verdict == SETTING_OK;
    const bool candidate = answers[ESTIMATE_CANDIDATE].verdict == SETTING_OK;
    s->newly_served += !live && candidate;
    if (!live || candidate)
        return OK;
    s->newly_refused++;
    return note_refusal(s, r, ask, &answers[ESTIMATE_CANDIDATE]);
}

static uint64_t unit_of(const struct record *r)
{
    static const uint8_t salt[16] = "simulated units";
    return r->has_unit ? r->unit : siphash24(salt, r->key_id);
}

enum err simulate_take(struct simulate *s, const struct record *r)
{
    struct ask ask;
    struct estimate_row row = { .unit = unit_of(r) };
    uint32_t route;
    if (r->kind != RECORD_REQUEST)
        return OK;
    if (s->row_count >= SIMULATE_ROWS_MAX)
        return ERR_FULL;
    if (!ask_of(r, &ask)) {
        s->unread++;
        return OK;
    }
    if (!setting_has_team(s->settings[ESTIMATE_LIVE], r->team)) {
        s->team_gone++;
        return OK;
    }
    arena_reset(&s->scratch);
    enum err err = route_id(s, r->route, &route);
    if (!err)
        err = fill_row(s, r, route, &row);
    if (!err)
        err = decide_both(s, r, &ask, route, &row);
    if (err)
        return err;
    s->first_ms = s->row_count == 0 || r->time_ms < s->first_ms ? r->time_ms : s->first_ms;
    s->last_ms = s->row_count == 0 || r->time_ms > s->last_ms ? r->time_ms : s->last_ms;
    return add_row(s, &row);
}
