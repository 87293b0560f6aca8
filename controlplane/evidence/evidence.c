#include "controlplane/evidence/evidence.h"
#include "common/fault.h"
#include "controlplane/evidence/catalog.h"
#include "controlplane/evidence/evidence_internal.h"
#include "proto/wire.h"

#define FOLLOW_ARENA_MAX ((size_t)1 << 30) /* a decoded artifact is a few times its bytes */
#define HEAD_ARENA_MAX   ((size_t)64 << 20)

enum err evidence_state_new(struct evidence_state **ret)
{
    struct evidence_state *state = fault_calloc(1, sizeof *state);
    if (!state)
        return ERR_NOMEM;
    arena_init(&state->head_arena, HEAD_ARENA_MAX);
    arena_init(&state->restored_arena, 0);
    if (prices_new(&state->prices) != OK || probes_new(&state->probes) != OK ||
        telemetry_new(&state->telemetry) != OK) {
        evidence_state_free(state);
        return ERR_NOMEM;
    }
    *ret = state;
    return OK;
}

static void followed_free(struct followed *f)
{
    if (!f)
        return;
    arena_release(&f->arena);
    free(f);
}

void evidence_state_free(struct evidence_state *state)
{
    if (!state)
        return;
    for (uint32_t i = 0; i < state->followed_count; i++)
        followed_free(state->followed[i]);
    arena_release(&state->head_arena);
    arena_release(&state->restored_arena);
    free(state->models);
    free(state->verdicts);
    prices_free(state->prices);
    probes_free(state->probes);
    telemetry_free(state->telemetry);
    free(state);
}

void evidence_tell(struct evidence_state *state, const struct event_sink *sink)
{
    state->sink = sink;
    telemetry_tell(state->telemetry, sink);
}

/* ---- persistence ---- */

/* The blob is the prices' own; a version in front leaves room for others. */
enum err evidence_export(const struct evidence_state *state, struct buf *out)
{
    enum err err = buf_append(out, SPAN("1\n"));
    if (!err)
        err = prices_export(state->prices, out);
    if (!err)
        prices_exported(state->prices);
    return err;
}

enum err evidence_import(struct evidence_state *state, struct span blob)
{
    if (!span_starts(blob, SPAN("1\n")))
        return ERR_CORRUPT;
    return prices_import(state->prices, span_skip(blob, 2));
}

bool evidence_dirty(const struct evidence_state *state)
{
    return prices_dirty(state->prices);
}

/* ---- following ---- */

static bool has_hash(const struct sha256 *hash)
{
    static const struct sha256 none;
    return memcmp(hash, &none, sizeof none) != 0;
}

bool evidence_same_members(const struct artifact *a, const struct tier *x, const struct artifact *b,
                           const struct tier *y)
{
    if (x->member_count != y->member_count)
        return false;
    for (uint32_t i = 0; i < x->member_count; i++) {
        if (!span_eq(a->models[x->members[i].model].name, b->models[y->members[i].model].name))
            return false;
    }
    return true;
}

/* Tiers stand in the order of their routes, which are sorted by name. */
struct followed_tier *evidence_tier(const struct followed *f, struct span route, uint32_t tier)
{
    uint32_t low = 0, high = f->tier_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = span_cmp(f->tiers[mid].route->name, route);
        if (order == 0)
            order = (f->tiers[mid].tier > tier) - (f->tiers[mid].tier < tier);
        if (order == 0)
            return &f->tiers[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* Weights that were learned for the same tier in another version go on; without one, the policy's prior. */
static void begin_weights(const struct evidence_state *state, const struct followed *f, struct followed_tier *t)
{
    const struct tier *tier = &t->route->tiers[t->tier];
    for (uint32_t i = 0; i < tier->member_count; i++)
        t->weights_ppm[i] = tier->members[i].weight_ppm;
    for (uint32_t k = 0; k < state->followed_count; k++) {
        const struct followed *other = state->followed[k];
        const struct followed_tier *o = evidence_tier(other, t->route->name, t->tier);
        if (!o || !evidence_same_members(f->artifact, tier, other->artifact, &o->route->tiers[o->tier]))
            continue;
        memcpy(t->weights_ppm, o->weights_ppm, tier->member_count * sizeof *t->weights_ppm);
        return;
    }
}

static enum err find_tiers(const struct evidence_state *state, struct followed *f)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < f->artifact->route_count; r++) {
        for (uint32_t i = 0; i < f->artifact->routes[r].tier_count; i++)
            count += f->artifact->routes[r].tiers[i].prefer != PREFER_WEIGHTS;
    }
    f->tiers = ARENA_ARRAY(&f->arena, (size_t)count + 1, struct followed_tier);
    if (!f->tiers)
        return ERR_NOMEM;
    for (uint32_t r = 0; r < f->artifact->route_count; r++) {
        const struct route *route = &f->artifact->routes[r];
        for (uint32_t i = 0; i < route->tier_count; i++) {
            if (route->tiers[i].prefer == PREFER_WEIGHTS)
                continue;
            struct followed_tier *t = &f->tiers[f->tier_count];
            *t = (struct followed_tier){ .route = route, .tier = i };
            t->weights_ppm = ARENA_ARRAY(&f->arena, route->tiers[i].member_count, uint32_t);
            t->told_ppm = ARENA_ARRAY(&f->arena, route->tiers[i].member_count, uint32_t);
            t->held_ppm = ARENA_ARRAY(&f->arena, route->tiers[i].member_count, uint32_t);
            t->last = ARENA_ARRAY(&f->arena, route->tiers[i].member_count, struct weights_outcome);
            if (!t->weights_ppm || !t->told_ppm || !t->held_ppm || !t->last)
                return ERR_NOMEM;
            begin_weights(state, f, t);
            memcpy(t->told_ppm, t->weights_ppm, route->tiers[i].member_count * sizeof *t->told_ppm);
            f->tier_count++;
        }
    }
    return OK;
}

/* A copy through its own encoding: complete by construction. */
static enum err followed_new(const struct evidence_state *state, const struct artifact *artifact, struct followed **ret)
{
    struct buf bytes = BUF_INIT(ARTIFACT_BYTES_MAX);
    struct followed *f = fault_calloc(1, sizeof *f);
    if (!f)
        return ERR_NOMEM;
    arena_init(&f->arena, FOLLOW_ARENA_MAX);
    enum err err = wire_encode_artifact(artifact, &bytes);
    if (!err)
        err = wire_decode_artifact(&f->arena, buf_span(&bytes), &f->artifact, NULL);
    buf_release(&bytes);
    if (!err) {
        f->hash = has_hash(&artifact->hash) ? artifact->hash : f->artifact->hash;
        f->artifact->hash = f->hash;
        f->facts = ARENA_ARRAY(&f->arena, (size_t)f->artifact->model_count + 1, struct model_facts);
        err = f->facts ? find_tiers(state, f) : ERR_NOMEM;
    }
    if (err) {
        followed_free(f);
        return err;
    }
    *ret = f;
    return OK;
}

static struct followed *find_in(struct followed *const *list, uint32_t count, const struct artifact *artifact)
{
    for (uint32_t i = 0; i < count && has_hash(&artifact->hash); i++) {
        if (sha256_eq(&list[i]->hash, &artifact->hash))
            return list[i];
    }
    return NULL;
}

static int model_order(const void *a, const void *b)
{
    const struct followed_model *x = a, *y = b;
    return span_cmp(x->model->name, y->model->name);
}

struct followed_model *evidence_model(const struct evidence_state *state, struct span name)
{
    uint32_t low = 0, high = state->model_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = span_cmp(state->models[mid].model->name, name);
        if (order == 0)
            return &state->models[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

const struct health_verdict *evidence_verdict(const struct evidence_state *state, const struct followed_model *m)
{
    return &state->verdicts[m - state->models];
}

/* Every model of these artifacts once, with what is known of its health. */
static enum err list_models(const struct evidence_state *state, struct followed *const *followed, uint32_t count,
                            struct followed_model **ret, struct health_verdict **ret_verdicts, uint32_t *ret_count)
{
    size_t most = 0;
    for (uint32_t i = 0; i < count; i++)
        most += followed[i]->artifact->model_count;
    struct followed_model *models = fault_calloc(most + 1, sizeof *models);
    struct health_verdict *verdicts = fault_calloc(most + 1, sizeof *verdicts);
    if (!models || !verdicts) {
        free(models);
        free(verdicts);
        return ERR_NOMEM;
    }
    uint32_t n = 0, kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct artifact *a = followed[i]->artifact;
        for (uint32_t k = 0; k < a->model_count; k++)
            models[n++] =
                (struct followed_model){ .model = &a->models[k], .provider = &a->providers[a->models[k].provider] };
    }
    if (n > 1)
        qsort(models, n, sizeof *models,
              model_order); /* which of two is kept does not matter much: health is by name */
    for (uint32_t i = 0; i < n; i++) {
        if (kept > 0 && span_eq(models[kept - 1].model->name, models[i].model->name))
            continue;
        const struct followed_model *before = evidence_model(state, models[i].model->name);
        models[kept] = models[i];
        if (before)
            verdicts[kept] = *evidence_verdict(state, before);
        kept++;
    }
    *ret = models;
    *ret_verdicts = verdicts;
    *ret_count = kept;
    return OK;
}

static bool is_followed(void *user, struct span name)
{
    const struct evidence_state *state = user;
    if (evidence_model(state, name))
        return true;
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct artifact *a = state->followed[i]->artifact;
        for (uint32_t k = 0; k < a->provider_count; k++) {
            if (span_eq(a->providers[k].name, name))
                return true;
        }
    }
    return false;
}

static enum err copy_head(const struct head *head, struct arena *arena, const struct head **ret)
{
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    struct head *copy;
    enum err err = wire_encode_head(head, &bytes);
    if (!err)
        err = wire_decode_head(arena, buf_span(&bytes), &copy, NULL);
    buf_release(&bytes);
    if (!err)
        *ret = copy;
    return err;
}

static bool in_list(struct followed *const *list, uint32_t count, const struct followed *f)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] == f)
            return true;
    }
    return false;
}

/* Where the models of each artifact stand among all. */
static void find_facts(struct evidence_state *state)
{
    for (uint32_t i = 0; i < state->followed_count; i++) {
        struct followed *f = state->followed[i];
        for (uint32_t k = 0; k < f->artifact->model_count; k++) {
            const struct followed_model *m = evidence_model(state, f->artifact->models[k].name);
            REQUIRE(m);
            f->facts[k].model = (uint32_t)(m - state->models);
        }
    }
}

enum err evidence_follow(struct evidence_state *state, const struct artifact *const *artifacts, uint32_t count,
                         const struct head *head)
{
    REQUIRE(count <= ARTIFACTS_KEPT);
    struct followed *next[ARTIFACTS_KEPT] = { NULL };
    bool fresh[ARTIFACTS_KEPT] = { false };
    struct followed_model *models = NULL;
    struct health_verdict *verdicts = NULL;
    uint32_t made = 0, model_count = 0;
    const struct head *copy = NULL;
    struct arena head_arena;
    enum err err = OK;
    arena_init(&head_arena, HEAD_ARENA_MAX);
    for (uint32_t i = 0; i < count && !err; i++) {
        struct followed *f = find_in(state->followed, state->followed_count, artifacts[i]);
        if (find_in(next, made, artifacts[i]))
            continue; /* two arms may have one artifact */
        fresh[made] = !f;
        if (!f)
            err = followed_new(state, artifacts[i], &f);
        if (!err)
            next[made++] = f;
    }
    if (!err && head)
        err = copy_head(head, &head_arena, &copy);
    if (!err)
        err = list_models(state, next, made, &models, &verdicts, &model_count);
    if (err) {
        for (uint32_t i = 0; i < made; i++) {
            if (fresh[i])
                followed_free(next[i]);
        }
        arena_release(&head_arena);
        return err;
    }
    for (uint32_t i = 0; i < state->followed_count; i++) {
        if (!in_list(next, made, state->followed[i]))
            followed_free(state->followed[i]);
    }
    arena_release(&state->head_arena);
    free(state->models);
    free(state->verdicts);
    state->head_arena = head_arena;
    state->head = copy;
    state->models = models;
    state->verdicts = verdicts;
    state->model_count = model_count;
    memcpy(state->followed, next, sizeof next);
    state->followed_count = made;
    find_facts(state);
    probes_retain(state->probes, is_followed, state);
    state->significant = true;
    return OK;
}

/* ---- taking reports ---- */

/* The mark of this sender; made when it is new. */
static struct sender_mark *find_mark(struct evidence_state *state, const struct evidence_report *report)
{
    uint32_t at = 0;
    while (at < state->mark_count &&
           (state->marks[at].source != report->source ||
            !span_eq(span_cstr(state->marks[at].sender), span_head(report->sender, NAME_BYTES_MAX))))
        at++;
    struct evidence_mark mark = { .source = report->source };
    if (at < state->mark_count) {
        mark = state->marks[at];
    } else {
        snprintf(mark.sender, sizeof mark.sender, SPAN_FMT, SPAN_ARG(span_head(report->sender, NAME_BYTES_MAX)));
        if (state->mark_count < EVIDENCE_MARKS)
            state->mark_count++;
        at = state->mark_count - 1;
    }
    memmove(state->marks + 1, state->marks, at * sizeof *state->marks); /* most recent first */
    state->marks[0] = mark;
    return &state->marks[0].mark;
}

static bool all_would_change(const struct evidence_state *state, int64_t now_ms)
{
    struct health_verdict *verdicts = fault_calloc((size_t)state->model_count + 1, sizeof *verdicts);
    bool changed = false;
    if (!verdicts)
        return true; /* deciding once too often is harmless */
    (void)evidence_judge(state, now_ms, verdicts);
    for (uint32_t i = 0; i < state->model_count && !changed; i++)
        changed = (verdicts[i].health == HEALTH_DOWN) != (state->verdicts[i].health == HEALTH_DOWN);
    free(verdicts);
    return changed;
}

static bool one_would_change(const struct evidence_state *state, const struct followed_model *m, int64_t now_ms)
{
    struct health_verdict verdict;
    evidence_judge_one(state, m, now_ms, &verdict);
    return (verdict.health == HEALTH_DOWN) != (evidence_verdict(state, m)->health == HEALTH_DOWN);
}

/* Hundreds of nodes report each second: only what a report speaks of is looked at, and all models only when one of
 * those has changed. */
static bool health_would_change(const struct evidence_state *state, const struct evidence_report *report,
                                int64_t now_ms)
{
    bool changed = false;
    for (uint32_t i = 0; i < report->telemetry_count && !changed; i++) {
        const struct followed_model *m = evidence_model(state, report->telemetry[i].model);
        changed = m && one_would_change(state, m, now_ms);
    }
    for (uint32_t i = 0; i < state->model_count && report->probe_count > 0 && !changed; i++)
        changed = one_would_change(state, &state->models[i], now_ms);
    return changed && all_would_change(state, now_ms);
}

static enum err take_probes(struct evidence_state *state, const struct evidence_report *report, int64_t now_ms)
{
    enum err err = OK;
    for (uint32_t i = 0; i < report->probe_count && !err; i++)
        err = probes_take(state->probes, &report->probes[i], now_ms);
    return err;
}

static enum err take_prices(struct evidence_state *state, const struct evidence_report *report, int64_t now_ms,
                            struct evidence_reply *reply)
{
    uint64_t before = prices_version(state->prices);
    enum err err = prices_take(state->prices, report, now_ms);
    state->significant |= prices_version(state->prices) != before;
    if (err == ERR_STALE)
        return OK; /* price_base 0 asks for everything */
    if (err == ERR_INVALID)
        reply->error = SPAN("a name stands twice in this catalog");
    reply->price_base = prices_base(state->prices);
    return err;
}

static enum err take_from_known(struct evidence_state *state, const struct evidence_report *report, int64_t now_ms,
                                struct evidence_reply *reply)
{
    struct sender_mark *mark = find_mark(state, report);
    if (sender_mark_look(mark, report->incarnation, report->seq) == SENDER_OLD) {
        reply->price_base = prices_base(state->prices);
        return OK;
    }
    enum err err = report->source == EVIDENCE_FROM_PROBER ? take_probes(state, report, now_ms)
                                                          : take_prices(state, report, now_ms, reply);
    if (err != ERR_NOMEM) /* then the sender may say it again */
        sender_mark_take(mark, report->incarnation, report->seq);
    return err;
}

static enum err reply_targets(const struct evidence_state *state, struct arena *arena, struct evidence_reply *reply)
{
    const struct artifact *artifacts[ARTIFACTS_KEPT];
    for (uint32_t i = 0; i < state->followed_count; i++)
        artifacts[i] = state->followed[i]->artifact;
    return probes_targets(arena, artifacts, state->followed_count, &reply->targets, &reply->target_count);
}

enum err evidence_take(struct evidence_state *state, const struct evidence_report *report, int64_t now_ms,
                       struct arena *arena, struct evidence_reply *ret_reply)
{
    struct evidence_reply reply = { .protocol = LINK_PROTOCOL, .error = SPAN("") };
    const char *why = NULL;
    enum err err = OK;
    state->now_ms = now_ms;
    if (report->protocol != LINK_PROTOCOL) {
        reply.error = SPAN("this protocol version is not spoken here");
        err = ERR_INVALID;
    } else if (report->source == EVIDENCE_FROM_NODE) {
        err = telemetry_take(state->telemetry, report, now_ms, &why);
        err = err == ERR_STALE ? OK : err;
    } else {
        const uint32_t held = prices_held(state->prices);
        err = take_from_known(state, report, now_ms, &reply);
        evidence_tell_held(state, held, report->sender, now_ms);
    }
    if (why)
        reply.error = span_cstr(why);
    if (err == ERR_TOO_MANY) {
        reply.error = SPAN("too many names: nothing more is kept");
        err = ERR_INVALID;
    }
    if (!err && report->source == EVIDENCE_FROM_PROBER)
        err = reply_targets(state, arena, &reply);
    if (err == ERR_NOMEM)
        reply.error = SPAN("out of memory");
    if (!err && !state->significant && report->source != EVIDENCE_FROM_PRICEFEED)
        state->significant = health_would_change(state, report, now_ms);
    *ret_reply = reply;
    return err;
}

bool evidence_significant(const struct evidence_state *state)
{
    return state->significant;
}

/* ---- prices ---- */

const struct policy_book *evidence_book(const struct evidence_state *state)
{
    return prices_book(state->prices);
}

enum err evidence_load_shipped(struct evidence_state *state, struct span text, const char **ret_why)
{
    static char why_text[256]; /* outlives the arena; one control plane, one thread */
    struct arena arena;
    struct catalog catalog;
    const char *why = NULL;
    arena_init(&arena, CATALOG_ARENA_MAX);
    enum err err = catalog_read(&arena, text, &catalog, &why);
    if (!err)
        err = prices_ship(state->prices, catalog.entries, catalog.count);
    if (err) {
        snprintf(why_text, sizeof why_text, "%s", why ? why : err_name(err));
        *ret_why = why_text;
    }
    state->significant = true;
    arena_release(&arena);
    return err;
}

enum err evidence_price_set(struct evidence_state *state, struct span name, const struct price *price, int64_t now_ms,
                            struct span by)
{
    if (name.len == 0 || name.len > NAME_BYTES_MAX || !price->known)
        return ERR_INVALID;
    enum err err = prices_set(state->prices, name, price, now_ms, by);
    state->significant |= !err;
    return err;
}

enum err evidence_price_unset(struct evidence_state *state, struct span name)
{
    enum err err = prices_unset(state->prices, name);
    state->significant |= !err;
    return err;
}

uint32_t evidence_price_reach(const struct evidence_state *state, struct span name, int64_t now_ms)
{
    uint32_t reached = 0;
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct artifact *a = state->followed[i]->artifact;
        for (uint32_t k = 0; k < a->model_count; k++) {
            struct price price;
            enum price_source source = PRICE_SOURCE_NONE;
            bool stale;
            if (span_eq(a->models[k].identity, name))
                evidence_price_of(state, &a->models[k], now_ms, &price, &source, &stale);
            reached += source != PRICE_SOURCE_NONE;
        }
    }
    return reached;
}

enum err evidence_price_accept(struct evidence_state *state, struct span name, int64_t now_ms, uint32_t *ret_count)
{
    enum err err = prices_accept(state->prices, name, now_ms, ret_count);
    state->significant |= !err;
    return err;
}

/* ---- weights ---- */

enum err evidence_weights_reset(struct evidence_state *state, struct span route)
{
    bool found = route.len == 0;
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct artifact *a = state->followed[i]->artifact;
        for (uint32_t k = 0; k < a->route_count && !found; k++)
            found = span_eq(a->routes[k].name, route);
        for (uint32_t k = 0; k < state->followed[i]->tier_count; k++) {
            struct followed_tier *t = &state->followed[i]->tiers[k];
            const struct tier *tier = &t->route->tiers[t->tier];
            if (route.len > 0 && !span_eq(t->route->name, route))
                continue;
            for (uint32_t m = 0; m < tier->member_count; m++)
                t->weights_ppm[m] = tier->members[m].weight_ppm;
            memset(t->last, 0, tier->member_count * sizeof *t->last);
            t->still = false;
        }
    }
    state->significant |= found;
    return found ? OK : ERR_NOT_FOUND;
}
