#include "dataplane/simulate/estimate.h"
#include "common/arena.h"
#include "dataplane/account/cost.h"
#include "dataplane/account/usage.h"
#include <math.h>

/* What is averaged, row by row; the TTFT is the ratio of the last two. */
enum base { BASE_COST, BASE_FAILED, BASE_TTFT, BASE_CONTENT, BASES };
#define Z95        1.959963984540054
#define WIDE       2.0 /* a model that nobody tried: half to twice of what is supposed */
#define NOBODY     3.0 /* rule of three: no event among n excludes 3/n with 95% */
#define GOLDEN_BIT 0x9e3779b97f4a7c15u

/* Sums over rows that tried one model first. */
struct fit {
    double rows, with_usage, asked, input, cached, cache_write, output, reasoning, failed, ttft, content;
    double reliance[ESTIMATE_TARGETS]; /* n x d_k of the header */
};
struct run {
    const struct estimate_input *in;
    struct estimate_row *rows;
    size_t count;
    struct fit *fits; /* two folds of each cell, then the models over all routes */
    struct fit *models;
    bool by_time;
    uint32_t clusters;
    size_t at; /* row looked at */
    double mean[ESTIMATE_TARGETS][BASES];
    double low[ESTIMATE_TARGETS][BASES], high[ESTIMATE_TARGETS][BASES]; /* sums of what is not measured */
    double weights[ESTIMATE_TARGETS], weights_squared[ESTIMATE_TARGETS];
    struct estimate_result *out;
};

double estimate_t95(double degrees)
{
    const double v = degrees < 2 ? 2 : degrees, z = Z95, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
    return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v) +
           (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * v * v * v);
}

/* ---- the direct model ---- */

static unsigned fold_of(const struct run *r, size_t row)
{
    if (r->by_time)
        return row * r->clusters / r->count & 1;
    return (unsigned)(r->rows[row].unit * GOLDEN_BIT >> 63);
}

static void fit_add(struct fit *f, const struct estimate_row *row)
{
    f->rows++;
    f->failed += row->failed;
    if (row->ttft_us > 0) {
        f->content++;
        f->ttft += row->ttft_us;
    }
    if (row->has_usage) {
        f->with_usage++;
        f->asked += row->asked_input;
        f->input += row->input;
        f->cached += row->cached;
        f->cache_write += row->cache_write;
        f->output += row->output;
        f->reasoning += row->reasoning;
    }
}

static void fit_all(struct run *r)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct estimate_row *row = &r->rows[i];
        if (row->cell == ESTIMATE_NONE)
            continue;
        fit_add(&r->fits[row->cell * 2 + fold_of(r, i)], row);
        fit_add(&r->models[r->in->cells[row->cell].model], row);
    }
}

/* The rows that speak for this cell to a row of this fold; NULL: there are none. */
static struct fit *fit_find(const struct run *r, uint32_t cell, unsigned fold)
{
    struct fit *other = &r->fits[cell * 2 + !fold], *own = &r->fits[cell * 2 + fold];
    struct fit *all = &r->models[r->in->cells[cell].model];
    return other->rows > 0 ? other : own->rows > 0 ? own : all->rows > 0 ? all : NULL;
}

/* Ratios of hostile records' counts pass any integer. */
static uint64_t tokens(double value)
{
    return value < USAGE_TOKENS_MAX ? value > 0 ? (uint64_t)(value + 0.5) : 0 : USAGE_TOKENS_MAX;
}

static double price_of(const struct estimate_model *model, enum estimate_target t, const struct usage *usage)
{
    return model->price[t] ? (double)cost_of(model->price[t], model->discount_ppm[t], usage).charged_nano : 0;
}

static double cost_expected(const struct fit *f, const struct estimate_row *row, const struct estimate_model *model,
                            enum estimate_target t)
{
    if (f->with_usage == 0)
        return 0;
    const double input = f->asked > 0 ? row->asked_input * (f->input / f->asked) : f->input / f->with_usage;
    const double per_input = f->input > 0 ? input / f->input : 0;
    const struct usage usage = { .known = true,
                                 .input = tokens(input),
                                 .cached = tokens(f->cached * per_input),
                                 .cache_write = tokens(f->cache_write * per_input),
                                 .output = tokens(f->output / f->with_usage),
                                 .reasoning = tokens(f->reasoning / f->with_usage) };
    return price_of(model, t, &usage) * (f->with_usage / f->rows);
}

static struct usage usage_of(const struct estimate_row *row)
{
    return (struct usage){ .known = true,
                           .input = row->has_usage ? row->input : row->asked_input,
                           .cached = row->cached,
                           .cache_write = row->cache_write,
                           .output = row->output,
                           .reasoning = row->reasoning };
}

static void expect(const struct fit *f, const struct estimate_row *row, const struct estimate_model *model,
                   enum estimate_target t, double ret[BASES])
{
    ret[BASE_COST] = cost_expected(f, row, model, t);
    ret[BASE_FAILED] = f->failed / f->rows;
    ret[BASE_TTFT] = f->ttft / f->rows;
    ret[BASE_CONTENT] = f->content / f->rows;
}

static bool evidence_knows(const struct estimate_model *model)
{
    return model->samples > 0 && model->ttft_us > 0;
}

/* Of a model of which no row exists. */
static void suppose(const struct estimate_row *row, const struct estimate_model *model, enum estimate_target t,
                    double ret[BASES])
{
    const struct usage usage = usage_of(row);
    ret[BASE_COST] = price_of(model, t, &usage);
    ret[BASE_FAILED] = model->samples > 0 ? model->errors_ppm / 1e6 : 0;
    ret[BASE_TTFT] = evidence_knows(model) ? model->ttft_us : 0;
    ret[BASE_CONTENT] = evidence_knows(model) ? 1 : 0;
}

/* By how much that may be wrong, for a row's share p. */
static void doubt(struct run *r, const struct estimate_model *model, enum estimate_target t, double p,
                  const double supposed[BASES])
{
    const double most = model->samples > 0 ? WIDE * supposed[BASE_FAILED] + NOBODY / model->samples : 1;
    static const enum base lengths[] = { BASE_COST, BASE_TTFT };
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        r->low[t][lengths[i]] += p * supposed[lengths[i]] * (1 - 1 / WIDE);
        r->high[t][lengths[i]] += p * supposed[lengths[i]] * (WIDE - 1);
    }
    r->low[t][BASE_FAILED] += p * supposed[BASE_FAILED];
    r->high[t][BASE_FAILED] += p * ((most < 1 ? most : 1) - supposed[BASE_FAILED]);
    r->out->unmeasured[t] += p;
    r->out->unknown[t] += evidence_knows(model) ? 0 : p;
}

/* ---- one row ---- */

static void observe(const struct run *r, const struct estimate_row *row, enum estimate_target t, double ret[BASES])
{
    const struct estimate_model *served = row->served != ESTIMATE_NONE ? &r->in->models[row->served] : NULL;
    const struct usage usage = usage_of(row);
    ret[BASE_COST] = !row->has_usage              ? 0
                     : served && served->price[t] ? price_of(served, t, &usage)
                                                  : (double)row->cost_nano;
    ret[BASE_FAILED] = row->failed;
    ret[BASE_TTFT] = row->ttft_us;
    ret[BASE_CONTENT] = row->ttft_us > 0;
}

struct score {
    double psi[BASES];
    double off[BASES]; /* what happened less what the direct model expected; 0 without an outcome */
};

/* What the direct model says of the row's decision. Returns the probability of what was tried. first: also sums what is
 * needed once. */
static double score_decision(struct run *r, const struct estimate_row *row, enum estimate_target t, bool first,
                             struct score *ret)
{
    const struct estimate_decision *d = row->decisions[t];
    const unsigned fold = fold_of(r, r->at);
    double chance = 0;
    for (uint32_t i = 0; i < d->count; i++) {
        const struct estimate_choice *c = &d->choices[i];
        const struct estimate_model *model = &r->in->models[r->in->cells[c->cell].model];
        struct fit *f = fit_find(r, c->cell, fold);
        double expected[BASES];
        if (f)
            expect(f, row, model, t, expected);
        else
            suppose(row, model, t, expected);
        for (unsigned b = 0; b < BASES; b++)
            ret->psi[b] += c->p * expected[b];
        if (c->cell == row->cell)
            chance += c->p;
        if (!first)
            continue;
        r->out->cells[c->cell].mass[t] += c->p;
        if (f)
            f->reliance[t] += c->p;
        else
            doubt(r, model, t, c->p, expected);
    }
    return chance;
}

static void score(struct run *r, enum estimate_target t, bool first, struct score *ret)
{
    const struct estimate_row *row = &r->rows[r->at];
    *ret = (struct score){ .psi = { 0 } };
    const double chance = score_decision(r, row, t, first, ret);
    if (row->cell == ESTIMATE_NONE)
        return;
    struct fit *f = fit_find(r, row->cell, fold_of(r, r->at));
    double happened[BASES], expected[BASES];
    REQUIRE(f);
    expect(f, row, &r->in->models[r->in->cells[row->cell].model], t, expected);
    observe(r, row, t, happened);
    const double full = row->mu > 0 ? chance / (double)row->mu : 0;
    const double w = full > ESTIMATE_WEIGHT_MAX ? ESTIMATE_WEIGHT_MAX : full;
    for (unsigned b = 0; b < BASES; b++) {
        ret->off[b] = happened[b] - expected[b];
        ret->psi[b] += w * ret->off[b];
    }
    if (first) {
        r->out->clipped[t] += full > ESTIMATE_WEIGHT_MAX;
        f->reliance[t] -= w;
        r->weights[t] += w;
        r->weights_squared[t] += w * w;
    }
}

static void sum_means(struct run *r)
{
    for (r->at = 0; r->at < r->count; r->at++) {
        for (unsigned t = 0; t < ESTIMATE_TARGETS; t++) {
            struct score s;
            score(r, (enum estimate_target)t, true, &s);
            for (unsigned b = 0; b < BASES; b++)
                r->mean[t][b] += s.psi[b];
        }
    }
    for (unsigned t = 0; t < ESTIMATE_TARGETS; t++) {
        for (unsigned b = 0; b < BASES; b++) {
            r->mean[t][b] /= (double)r->count;
            r->low[t][b] /= (double)r->count;
            r->high[t][b] /= (double)r->count;
        }
        struct estimate_result *out = r->out;
        out->effective_rows[t] = r->weights_squared[t] > 0 ? r->weights[t] * r->weights[t] / r->weights_squared[t] : 0;
        out->clipped[t] /= (double)r->count;
        out->unmeasured[t] /= (double)r->count;
        out->unknown[t] /= (double)r->count;
    }
}

/* ---- variance, by clusters ---- */

#define DEGREES_LEAST 2.0 /* with fewer an interval says nothing */

/* Of freedom: what clusters of these sizes are worth, less one. */
static double degrees_of(double rows, double squares)
{
    return squares > 0 ? rows * rows / squares - 1 : 0;
}

static double ttft_of(const struct run *r, unsigned t)
{
    return r->mean[t][BASE_CONTENT] > 0 ? r->mean[t][BASE_TTFT] / r->mean[t][BASE_CONTENT] : 0;
}

/* The base figures as one metric, linear around the means. */
static double linear(const struct run *r, unsigned t, enum estimate_metric metric, const double base[BASES])
{
    switch (metric) {
    case ESTIMATE_COST:
        return base[BASE_COST];
    case ESTIMATE_FAILURES:
        return base[BASE_FAILED];
    case ESTIMATE_TTFT:
        return r->mean[t][BASE_CONTENT] > 0
                   ? (base[BASE_TTFT] - ttft_of(r, t) * base[BASE_CONTENT]) / r->mean[t][BASE_CONTENT]
                   : 0;
    case ESTIMATE_METRICS:
        break;
    }
    return 0;
}

/* What this row adds to the error of the mean: its own, and that of the direct model where others rely on it. */
static double influence(const struct run *r, unsigned t, enum estimate_metric metric, const struct score *s)
{
    const struct estimate_row *row = &r->rows[r->at];
    double sum = linear(r, t, metric, s->psi) - linear(r, t, metric, r->mean[t]);
    if (row->cell != ESTIMATE_NONE) {
        const struct fit *own = &r->fits[row->cell * 2 + fold_of(r, r->at)];
        const struct fit *all = &r->models[r->in->cells[row->cell].model];
        sum += linear(r, t, metric, s->off) * (own->reliance[t] / own->rows + all->reliance[t] / all->rows);
    }
    return sum;
}

struct spread {
    double sum[ESTIMATE_TARGETS + 1][ESTIMATE_METRICS]; /* of the cluster at hand */
    double squares[ESTIMATE_TARGETS + 1][ESTIMATE_METRICS];
    double rows, rows_squared; /* for the clusters' effective number */
    size_t in_cluster;
};

static void end_cluster(struct spread *v)
{
    for (unsigned t = 0; t <= ESTIMATE_TARGETS; t++)
        for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
            v->squares[t][m] += v->sum[t][m] * v->sum[t][m];
            v->sum[t][m] = 0;
        }
    v->rows += (double)v->in_cluster;
    v->rows_squared += (double)v->in_cluster * (double)v->in_cluster;
    v->in_cluster = 0;
}

static bool begins_cluster(const struct run *r, size_t at)
{
    if (at == 0)
        return false;
    if (r->by_time)
        return at * r->clusters / r->count != (at - 1) * r->clusters / r->count;
    return r->rows[at].unit != r->rows[at - 1].unit;
}

static void sum_spread(struct run *r, struct spread *v)
{
    for (r->at = 0; r->at < r->count; r->at++) {
        struct score s[ESTIMATE_TARGETS];
        if (begins_cluster(r, r->at))
            end_cluster(v);
        v->in_cluster++;
        for (unsigned t = 0; t < ESTIMATE_TARGETS; t++)
            score(r, (enum estimate_target)t, false, &s[t]);
        for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
            const enum estimate_metric metric = (enum estimate_metric)m;
            const double live = influence(r, ESTIMATE_LIVE, metric, &s[ESTIMATE_LIVE]);
            const double candidate = influence(r, ESTIMATE_CANDIDATE, metric, &s[ESTIMATE_CANDIDATE]);
            v->sum[ESTIMATE_LIVE][m] += live;
            v->sum[ESTIMATE_CANDIDATE][m] += candidate;
            v->sum[ESTIMATE_TARGETS][m] += candidate - live;
        }
    }
    end_cluster(v);
}

/* ---- figures ---- */

/* Wilson's score interval for a share whose variance is known by other means. */
static void wilson(double share, double variance, double rows, double t, struct estimate_figure *f)
{
    const double p = share < 0 ? 0 : share > 1 ? 1 : share;
    const double n = variance > 0 && p > 0 && p < 1 ? p * (1 - p) / variance : rows > 1 ? rows : 1;
    const double centre = (p + t * t / (2 * n)) / (1 + t * t / n);
    const double half = t / (1 + t * t / n) * sqrt(p * (1 - p) / n + t * t / (4 * n * n));
    f->value = p;
    f->low = centre - half > 0 ? centre - half : 0;
    f->high = centre + half < 1 ? centre + half : 1;
}

static double floor_zero(double value)
{
    return value > 0 ? value : 0;
}

/* Of a mean per request. scale: 1, or what makes a ratio of it. */
static struct estimate_figure figure_of(const struct run *r, unsigned t, enum base base, double scale, double half)
{
    const double value = r->mean[t][base] * scale;
    return (struct estimate_figure){ .value = value,
                                     .low = floor_zero(value - half - r->low[t][base] * scale),
                                     .high = value + half + r->high[t][base] * scale };
}

static void fill_figures(struct run *r, const double half[ESTIMATE_METRICS], double t95, unsigned t)
{
    struct estimate_figure *f = r->out->figures[t], *failures = &f[ESTIMATE_FAILURES];
    const double content = r->mean[t][BASE_CONTENT], error = half[ESTIMATE_FAILURES] / t95;
    f[ESTIMATE_COST] = figure_of(r, t, BASE_COST, 1, half[ESTIMATE_COST]);
    f[ESTIMATE_COST].value_known = true;
    wilson(r->mean[t][BASE_FAILED], error * error, r->out->effective_rows[t], t95, failures);
    failures->low = floor_zero(failures->low - r->low[t][BASE_FAILED]);
    failures->high = fmin(1, failures->high + r->high[t][BASE_FAILED]);
    failures->value_known = true;
    if (content > 0)
        f[ESTIMATE_TTFT] = figure_of(r, t, BASE_TTFT, 1 / content, half[ESTIMATE_TTFT]);
    f[ESTIMATE_TTFT].value_known = content > 0;
}

static void fill_difference(struct run *r, const double half[ESTIMATE_METRICS])
{
    static const enum base bases[ESTIMATE_METRICS] = {
        [ESTIMATE_COST] = BASE_COST, [ESTIMATE_TTFT] = BASE_TTFT, [ESTIMATE_FAILURES] = BASE_FAILED
    };
    double scale[ESTIMATE_TARGETS];
    for (unsigned m = 0; m < ESTIMATE_METRICS; m++) {
        const struct estimate_figure *a = &r->out->figures[ESTIMATE_LIVE][m],
                                     *b = &r->out->figures[ESTIMATE_CANDIDATE][m];
        for (unsigned t = 0; t < ESTIMATE_TARGETS; t++)
            scale[t] = m == ESTIMATE_TTFT && r->mean[t][BASE_CONTENT] > 0 ? 1 / r->mean[t][BASE_CONTENT] : 1;
        const double less = scale[ESTIMATE_CANDIDATE] * r->low[ESTIMATE_CANDIDATE][bases[m]] +
                            scale[ESTIMATE_LIVE] * r->high[ESTIMATE_LIVE][bases[m]];
        const double more = scale[ESTIMATE_CANDIDATE] * r->high[ESTIMATE_CANDIDATE][bases[m]] +
                            scale[ESTIMATE_LIVE] * r->low[ESTIMATE_LIVE][bases[m]];
        r->out->difference[m] = (struct estimate_figure){ .value = b->value - a->value,
                                                          .low = b->value - a->value - half[m] - less,
                                                          .high = b->value - a->value + half[m] + more,
                                                          .value_known = a->value_known && b->value_known,
                                                          .interval_known = a->interval_known && b->interval_known };
    }
}

static void fill_all_figures(struct run *r, const struct spread *v)
{
    const double clusters = r->clusters;
    const double degrees = degrees_of(v->rows, v->rows_squared);
    const double t95 = estimate_t95(degrees), small = clusters > 1 ? clusters / (clusters - 1) : 1;
    const bool enough = r->clusters >= ESTIMATE_UNITS_LEAST && degrees >= DEGREES_LEAST;
    double half[ESTIMATE_TARGETS + 1][ESTIMATE_METRICS];
    for (unsigned t = 0; t <= ESTIMATE_TARGETS; t++)
        for (unsigned m = 0; m < ESTIMATE_METRICS; m++)
            half[t][m] = t95 * sqrt(small * v->squares[t][m]) / (double)r->count;
    for (unsigned t = 0; t < ESTIMATE_TARGETS; t++) {
        fill_figures(r, half[t], t95, t);
        for (unsigned m = 0; m < ESTIMATE_METRICS; m++)
            r->out->figures[t][m].interval_known = enough && (m != ESTIMATE_TTFT || r->out->unknown[t] < 1e-9);
        r->out->figures[t][ESTIMATE_TTFT].interval_known &= r->out->figures[t][ESTIMATE_TTFT].value_known;
    }
    fill_difference(r, half[ESTIMATE_TARGETS]);
}

static bool same_decision(const struct estimate_decision *a, const struct estimate_decision *b)
{
    bool same = a == b || a->count == b->count;
    for (uint32_t i = 0; a != b && same && i < a->count; i++)
        same = a->choices[i].cell == b->choices[i].cell && a->choices[i].p == b->choices[i].p;
    return same;
}

/* Nobody failed, but other rows might: as wide as both shares are (Newcombe's hybrid score interval). */
static void widen_difference(struct run *r)
{
    const struct estimate_figure *a = &r->out->figures[ESTIMATE_LIVE][ESTIMATE_FAILURES];
    const struct estimate_figure *b = &r->out->figures[ESTIMATE_CANDIDATE][ESTIMATE_FAILURES];
    struct estimate_figure *d = &r->out->difference[ESTIMATE_FAILURES];
    bool same = true;
    for (size_t i = 0; i < r->count && same; i++)
        same = same_decision(r->rows[i].decisions[ESTIMATE_LIVE], r->rows[i].decisions[ESTIMATE_CANDIDATE]);
    if (same || d->high - d->low > 0)
        return;
    d->low = d->value - hypot(b->value - b->low, a->high - a->value);
    d->high = d->value + hypot(b->high - b->value, a->value - a->low);
}

static void fill_cells(struct run *r)
{
    for (uint32_t c = 0; c < r->in->cell_count; c++) {
        const struct estimate_model *model = &r->in->models[r->in->cells[c].model];
        struct estimate_cell_result *cell = &r->out->cells[c];
        const struct fit *a = &r->fits[c * 2], *b = &r->fits[c * 2 + 1], *all = &r->models[r->in->cells[c].model];
        double rows = a->rows + b->rows, content = a->content + b->content, failed = a->failed + b->failed;
        double ttft = a->ttft + b->ttft;
        cell->rows = (uint32_t)rows;
        if (rows == 0) {
            rows = all->rows;
            content = all->content;
            failed = all->failed;
            ttft = all->ttft;
        }
        cell->ttft_us = content > 0 ? ttft / content : rows == 0 && model->samples > 0 ? model->ttft_us : 0;
        cell->failures = rows > 0 ? failed / rows : model->errors_ppm / 1e6;
    }
}

/* ---- all together ---- */

static int by_unit(const void *a, const void *b)
{
    const struct estimate_row *x = a, *y = b;
    return x->unit != y->unit ? x->unit < y->unit ? -1 : 1 : (x->time_ms > y->time_ms) - (x->time_ms < y->time_ms);
}

static int by_time(const void *a, const void *b)
{
    const struct estimate_row *x = a, *y = b;
    return (x->time_ms > y->time_ms) - (x->time_ms < y->time_ms);
}

/* By units; by blocks of time where there are few of them, or few that count: one key may send most of all. */
static void make_clusters(struct run *r)
{
    double squares = 0, rows = 0;
    qsort(r->rows, r->count, sizeof(*r->rows), by_unit);
    r->clusters = 0;
    for (size_t i = 0; i < r->count; i++) {
        rows++;
        if (i + 1 < r->count && r->rows[i].unit == r->rows[i + 1].unit)
            continue;
        r->clusters++;
        squares += rows * rows;
        rows = 0;
    }
    const double all = (double)r->count;
    if (r->clusters >= ESTIMATE_UNITS_LEAST && degrees_of(all, squares) >= DEGREES_LEAST)
        return;
    r->by_time = true;
    r->clusters = r->count < ESTIMATE_BLOCKS ? (uint32_t)r->count : ESTIMATE_BLOCKS;
    qsort(r->rows, r->count, sizeof(*r->rows), by_time);
}

enum err estimate_run(struct arena *arena, const struct estimate_input *input, struct estimate_result *ret)
{
    struct run r = { .in = input, .rows = input->rows, .count = input->row_count, .out = ret };
    struct estimate_cell_result *cells = ARENA_ARRAY(arena, input->cell_count + 1u, struct estimate_cell_result);
    r.fits = ARENA_ARRAY(arena, 2u * input->cell_count + input->model_count + 1u, struct fit);
    if (!cells || !r.fits)
        return ERR_NOMEM;
    r.models = r.fits + 2 * (size_t)input->cell_count;
    *ret = (struct estimate_result){ .cells = cells };
    if (r.count == 0)
        return OK;
    struct spread spread = { .rows = 0 };
    make_clusters(&r);
    ret->clusters = r.clusters;
    ret->by_time = r.by_time;
    fit_all(&r);
    sum_means(&r);
    sum_spread(&r, &spread);
    fill_all_figures(&r, &spread);
    widen_difference(&r);
    fill_cells(&r);
    return OK;
}
