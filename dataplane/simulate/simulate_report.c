#include "common/arena.h"
#include "dataplane/simulate/simulate_internal.h"
#include <math.h>

#define MATRIX_MAX   200u /* rows told; the smallest are left out, and counted */
#define REFUSALS_MAX 50u
#define MODELS_TOLD  500u
#define REFUSED      ESTIMATE_NONE /* "no model", in the matrix */

struct move { /* expected requests whose first choice goes from one model to another (or to none) */
    uint32_t from, to;
    double requests;
};
struct matrix {
    struct arena *arena;
    struct strmap moves; /* (from, to) -> struct move* */
    double moved;
};

static enum err matrix_add(struct matrix *m, uint32_t from, uint32_t to, double requests)
{
    const uint32_t both[2] = { from, to };
    struct move *move = strmap_get(&m->moves, span_of(both, sizeof(both)));
    if (!move) {
        move = ARENA_NEW(m->arena, struct move);
        if (!move)
            return ERR_NOMEM;
        *move = (struct move){ .from = from, .to = to };
        const enum err err = strmap_put(&m->moves, span_of(&move->from, sizeof(both)), move);
        if (err)
            return err;
    }
    move->requests += requests;
    m->moved += from == to ? 0 : requests;
    return OK;
}

/* A target's chances of this row, by model; refused: one of REFUSED. */
struct chances {
    struct {
        uint32_t model;
        double p;
    } items[TIERS_MAX * TIER_MEMBERS_MAX];
    uint32_t count;
};

static void chances_of(const struct simulate *s, const struct estimate_decision *d, struct chances *ret)
{
    ret->count = 0;
    for (uint32_t i = 0; i < d->count; i++) {
        ret->items[i].model = s->cells[d->choices[i].cell].model;
        ret->items[i].p = d->choices[i].p;
        ret->count++;
    }
    if (ret->count == 0) {
        ret->items[0].model = REFUSED;
        ret->items[0].p = 1;
        ret->count = 1;
    }
}

/* As few as can be move: what both give a model stays; what one gives up goes to those who gain, by their gain. */
static enum err couple(struct matrix *m, struct chances *from, struct chances *to, double requests)
{
    double gained = 0;
    for (uint32_t i = 0; i < from->count; i++) {
        for (uint32_t k = 0; k < to->count; k++) {
            if (from->items[i].model != to->items[k].model)
                continue;
            const double stays = fmin(from->items[i].p, to->items[k].p);
            from->items[i].p -= stays;
            to->items[k].p -= stays;
            const enum err err = matrix_add(m, from->items[i].model, to->items[k].model, stays * requests);
            if (err)
                return err;
        }
    }
    for (uint32_t k = 0; k < to->count; k++)
        gained += to->items[k].p;
    for (uint32_t i = 0; i < from->count && gained > 1e-12; i++) {
        for (uint32_t k = 0; k < to->count; k++) {
            const double goes = from->items[i].p * to->items[k].p / gained;
            const enum err err =
                goes > 1e-12 ? matrix_add(m, from->items[i].model, to->items[k].model, goes * requests) : OK;
            if (err)
                return err;
        }
    }
    return OK;
}

/* Rows that are decided alike under both are coupled once. */
static int by_decisions(const void *a, const void *b)
{
    const struct estimate_row *x = a, *y = b;
    for (unsigned t = 0; t < ESTIMATE_TARGETS; t++)
        if (x->decisions[t] != y->decisions[t])
            return (uintptr_t)x->decisions[t] < (uintptr_t)y->decisions[t] ? -1 : 1;
    return 0;
}

static enum err fill_matrix(struct simulate *s, struct matrix *m)
{
    if (s->row_count > 1)
        qsort(s->rows, s->row_count, sizeof(*s->rows), by_decisions);
    for (size_t i = 0, next; i < s->row_count; i = next) {
        struct chances from, to;
        for (next = i + 1; next < s->row_count && by_decisions(&s->rows[i], &s->rows[next]) == 0;)
            next++;
        chances_of(s, s->rows[i].decisions[ESTIMATE_LIVE], &from);
        chances_of(s, s->rows[i].decisions[ESTIMATE_CANDIDATE], &to);
        const enum err err = couple(m, &from, &to, (double)(next - i));
        if (err)
            return err;
    }
    return OK;
}

/* ---- writing ---- */

static void put_number(struct json_writer *w, const char *key, double value)
{
    json_key(w, span_cstr(key));
    json_put_double(w, value);
}

static void put_name(const struct simulate *s, struct json_writer *w, const char *key, uint32_t model)
{
    json_key(w, span_cstr(key));
    if (model == REFUSED)
        json_put_null(w);
    else
        json_put_string(w, s->models[model].name);
}

static int by_requests(const void *a, const void *b)
{
    const double x = (*(struct move *const *)a)->requests, y = (*(struct move *const *)b)->requests;
    return x < y ? 1 : x > y ? -1 : 0;
}

static enum err put_matrix(const struct simulate *s, const struct matrix *m, struct json_writer *w)
{
    struct move **all = ARENA_ARRAY(m->arena, m->moves.count + 1, struct move *);
    struct span key;
    void *value;
    size_t count = 0;
    if (!all)
        return ERR_NOMEM;
    for (size_t at = 0; strmap_each(&m->moves, &at, &key, &value);)
        all[count++] = value;
    qsort(all, count, sizeof(struct move *), by_requests);
    json_key(w, SPAN("matrix"));
    json_array_open(w);
    for (size_t i = 0; i < count && i < MATRIX_MAX; i++) {
        json_object_open(w);
        put_name(s, w, "from", all[i]->from);
        put_name(s, w, "to", all[i]->to);
        put_number(w, "requests", all[i]->requests);
        json_object_close(w);
    }
    json_array_close(w);
    json_member_u64(w, "matrix_left_out", count > MATRIX_MAX ? count - MATRIX_MAX : 0);
    return OK;
}

static void put_figure(struct json_writer *w, const char *key, const struct estimate_figure *f, double unit)
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    put_number(w, "value", f->value_known ? f->value * unit : NAN);
    put_number(w, "low", f->interval_known ? f->low * unit : NAN);
    put_number(w, "high", f->interval_known ? f->high * unit : NAN);
    json_object_close(w);
}

static void put_metrics(const struct estimate_result *r, struct json_writer *w)
{
    static const struct {
        const char *name;
        double unit;
    } metrics[ESTIMATE_METRICS] = { [ESTIMATE_COST] = { "cost_usd", 1e-9 },
                                    [ESTIMATE_TTFT] = { "ttft_ms", 1e-3 },
                                    [ESTIMATE_FAILURES] = { "failures", 1 } };
    json_key(w, SPAN("metrics"));
    json_object_open(w);
    for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
        json_key(w, span_cstr(metrics[m].name));
        json_object_open(w);
        put_figure(w, "live", &r->figures[ESTIMATE_LIVE][m], metrics[m].unit);
        put_figure(w, "candidate", &r->figures[ESTIMATE_CANDIDATE][m], metrics[m].unit);
        put_figure(w, "difference", &r->difference[m], metrics[m].unit);
        json_object_close(w);
    }
    json_object_close(w);
}

static void put_pair(struct json_writer *w, const char *key, const double values[ESTIMATE_TARGETS])
{
    json_key(w, span_cstr(key));
    json_object_open(w);
    put_number(w, "live", values[ESTIMATE_LIVE]);
    put_number(w, "candidate", values[ESTIMATE_CANDIDATE]);
    json_object_close(w);
}

static void put_quality(const struct simulate *s, const struct estimate_result *r, struct json_writer *w)
{
    json_key(w, SPAN("quality"));
    json_object_open(w);
    put_pair(w, "effective_requests", r->effective_rows);
    put_pair(w, "clipped", r->clipped);
    put_pair(w, "unmeasured", r->unmeasured);
    put_pair(w, "unknown", r->unknown);
    json_member_u64(w, "clusters", r->clusters);
    json_member_cstr(w, "clustered_by", r->by_time ? "time" : "unit");
    json_member_u64(w, "propensity_missing", s->propensity_missing);
    json_object_close(w);
}

/* What each model gets and gives, over all routes. */
struct model_sum {
    uint32_t model;
    double mass[ESTIMATE_TARGETS], ttft_us, failures, rows;
    bool measured;
};

static int by_mass(const void *a, const void *b)
{
    const struct model_sum *x = a, *y = b;
    const double p = x->mass[0] + x->mass[1], q = y->mass[0] + y->mass[1];
    return p < q ? 1 : p > q ? -1 : 0;
}

static enum err put_models(const struct simulate *s, const struct estimate_result *r, struct arena *arena,
                           struct json_writer *w)
{
    struct model_sum *sums = ARENA_ARRAY(arena, (size_t)s->model_count + 1, struct model_sum);
    if (!sums)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < s->model_count; i++)
        sums[i].model = i;
    for (uint32_t c = 0; c < s->cell_count; c++) {
        struct model_sum *sum = &sums[s->cells[c].model];
        const struct estimate_cell_result *cell = &r->cells[c];
        for (unsigned t = 0; t < ESTIMATE_TARGETS; t++)
            sum->mass[t] += cell->mass[t];
        sum->rows += cell->rows;
        sum->ttft_us += cell->ttft_us * cell->rows;
        sum->failures += cell->failures * cell->rows;
    }
    qsort(sums, s->model_count, sizeof(*sums), by_mass);
    json_key(w, SPAN("models"));
    json_array_open(w);
    for (uint32_t i = 0; i < s->model_count && i < MODELS_TOLD; i++) {
        const struct model_sum *sum = &sums[i];
        const struct estimate_model *model = &s->models[sum->model];
        if (sum->mass[ESTIMATE_LIVE] + sum->mass[ESTIMATE_CANDIDATE] <= 0)
            break;
        const double evidence_ttft = model->samples > 0 && model->ttft_us > 0 ? (double)model->ttft_us : (double)NAN;
        json_object_open(w);
        json_member_string(w, "model", model->name);
        put_number(w, "live_requests", sum->mass[ESTIMATE_LIVE]);
        put_number(w, "candidate_requests", sum->mass[ESTIMATE_CANDIDATE]);
        json_member_u64(w, "recorded", (uint64_t)sum->rows);
        put_number(w, "ttft_ms", (sum->rows > 0 ? sum->ttft_us / sum->rows : evidence_ttft) / 1000);
        put_number(w, "failures", sum->rows > 0 ? sum->failures / sum->rows : NAN);
        json_object_close(w);
    }
    json_array_close(w);
    return OK;
}

/* Of the paths (route and model) that get traffic only under the candidate the slowest; one whose TTFT nobody knows
 * counts as slowest of all. */
static void put_slowest(const struct simulate *s, const struct estimate_result *r, struct json_writer *w)
{
    uint32_t slowest = ESTIMATE_NONE;
    for (uint32_t c = 0; c < s->cell_count; c++) {
        const struct estimate_cell_result *cell = &r->cells[c];
        if (cell->mass[ESTIMATE_LIVE] > 0 || cell->mass[ESTIMATE_CANDIDATE] <= 0)
            continue;
        if (slowest == ESTIMATE_NONE ||
            (r->cells[slowest].ttft_us > 0 && (cell->ttft_us <= 0 || cell->ttft_us > r->cells[slowest].ttft_us)))
            slowest = c;
    }
    json_key(w, SPAN("slowest_new_path"));
    if (slowest == ESTIMATE_NONE) {
        json_put_null(w);
        return;
    }
    const struct estimate_cell_result *cell = &r->cells[slowest];
    json_object_open(w);
    json_member_string(w, "route", s->routes[s->cells[slowest].route]);
    json_member_string(w, "model", s->models[s->cells[slowest].model].name);
    put_number(w, "requests", cell->mass[ESTIMATE_CANDIDATE]);
    put_number(w, "ttft_ms", cell->ttft_us > 0 ? cell->ttft_us / 1000 : NAN);
    json_object_close(w);
}

static int by_refusals(const void *a, const void *b)
{
    const struct refusals *x = *(struct refusals *const *)a, *y = *(struct refusals *const *)b;
    return x->requests < y->requests ? 1 : x->requests > y->requests ? -1 : 0;
}

static enum err put_refusals(const struct simulate *s, struct arena *arena, struct json_writer *w)
{
    struct refusals **all = ARENA_ARRAY(arena, s->refusals.count + 1, struct refusals *);
    struct span key;
    void *value;
    size_t count = 0;
    if (!all)
        return ERR_NOMEM;
    for (size_t at = 0; strmap_each(&s->refusals, &at, &key, &value);)
        all[count++] = value;
    qsort(all, count, sizeof(struct refusals *), by_refusals);
    json_key(w, SPAN("refused"));
    json_object_open(w);
    json_member_u64(w, "live", s->refused[ESTIMATE_LIVE]);
    json_member_u64(w, "candidate", s->refused[ESTIMATE_CANDIDATE]);
    json_member_u64(w, "new", s->newly_refused);
    json_member_u64(w, "served_again", s->newly_served);
    json_key(w, SPAN("groups"));
    json_array_open(w);
    for (size_t i = 0; i < count && i < REFUSALS_MAX; i++) {
        json_object_open(w);
        json_member_string(w, "team", all[i]->team);
        json_member_string(w, "asked", all[i]->asked);
        json_member_cstr(w, "reason", all[i]->reason);
        json_member_cstr(w, "why", all[i]->text);
        json_member_u64(w, "requests", all[i]->requests);
        json_object_close(w);
    }
    json_array_close(w);
    json_object_close(w);
    return OK;
}

uint64_t simulate_taken(const struct simulate *simulate)
{
    return simulate->row_count;
}

enum err simulate_report(struct simulate *s, struct json_writer *w)
{
    struct estimate_result result;
    struct matrix matrix = { .arena = &s->arena };
    const struct estimate_input input = { .rows = s->rows,
                                          .row_count = s->row_count,
                                          .cells = s->cells,
                                          .cell_count = s->cell_count,
                                          .models = s->models,
                                          .model_count = s->model_count };
    strmap_init(&matrix.moves, &s->arena);
    enum err err = estimate_run(&s->arena, &input, &result);
    if (!err)
        err = fill_matrix(s, &matrix);
    if (err)
        return err;
    json_object_open(w);
    json_member_u64(w, "requests", s->row_count);
    json_member_u64(w, "left_out_unread", s->unread);
    json_member_u64(w, "left_out_team_gone", s->team_gone);
    json_member_i64(w, "from_ms", s->first_ms);
    json_member_i64(w, "to_ms", s->last_ms);
    put_number(w, "moved", matrix.moved);
    put_metrics(&result, w);
    put_quality(s, &result, w);
    err = put_models(s, &result, &s->arena, w);
    if (!err)
        err = put_matrix(s, &matrix, w);
    put_slowest(s, &result, w);
    if (!err)
        err = put_refusals(s, &s->arena, w);
    json_object_close(w);
    return err;
}
