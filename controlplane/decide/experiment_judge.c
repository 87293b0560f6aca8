#include "controlplane/decide/experiment_internal.h"
#include <math.h>

#define RATIO_LIMIT   4.1589 /* log 64: relative changes are not told apart beyond */
#define NEEDED_GROWTH 1.1    /* between the amounts of traffic that are tried */
#define NEEDED_STEPS  96u    /* of it, to 1e4 times as much: that is not worth waiting for */
#define NEEDED_POWER  0.8416 /* the z of a probability of 0.8 */

/* The units of two arms that have values of one guard, in the experiment's scratch arrays. */
struct sample {
    const struct experiment *e;
    uint32_t arm, guard, count, units[2];
    uint64_t requests[2], heaviest;
    double weight[2], effective[2];
    double mean[2]; /* of units */
    bool studentised;
    double suffix[2][EXPERIMENT_BUCKETS + 1]; /* TTFT: weight of what lies in this bucket or above */
};

static bool treated(const struct sample *s, uint32_t i)
{
    return s->e->units[s->e->members[i]].arm != 0;
}

static const struct moments *moments_at(const struct sample *s, uint32_t i)
{
    return &s->e->moments[(size_t)s->e->members[i] * s->e->options.guard_count + s->guard];
}

static const uint32_t *buckets_at(const struct sample *s, uint32_t i)
{
    const struct experiment *e = s->e;
    return e->buckets + ((size_t)e->members[i] * e->histograms + e->histogram_of[s->guard]) * EXPERIMENT_BUCKETS;
}

static void gather(const struct experiment *e, uint32_t arm, uint32_t guard, struct sample *s)
{
    double squares[2] = { 0 }, sum[2] = { 0 };
    enum metric metric = e->guards[guard].metric;
    *s = (struct sample){
        .e = e, .arm = arm, .guard = guard, .studentised = metric == METRIC_COST || metric == METRIC_SPEED
    };
    for (uint32_t u = 0; u < e->count; u++) {
        uint32_t side = e->units[u].arm == arm;
        const struct moments *m = &e->moments[(size_t)u * e->options.guard_count + guard];
        if (m->n == 0 || (!side && e->units[u].arm != 0))
            continue;
        double weight = m->n / (m->n + EXPERIMENT_WEIGHT_HALF);
        double value = metric == METRIC_FEEDBACK ? (m->mean + 1) / 2 : m->mean; /* as a share */
        e->members[s->count] = u;
        e->values[s->count] = value;
        e->weights[s->count++] = weight;
        s->units[side]++;
        s->requests[side] += m->n;
        s->heaviest = m->n > s->heaviest ? m->n : s->heaviest;
        s->weight[side] += weight;
        squares[side] += weight * weight;
        sum[side] += weight * value;
    }
    for (uint32_t side = 0; side < 2; side++) {
        s->effective[side] = squares[side] > 0 ? s->weight[side] * s->weight[side] / squares[side] : 0;
        s->mean[side] = s->weight[side] > 0 ? sum[side] / s->weight[side] : NAN;
    }
    if (metric != METRIC_TTFT)
        return;
    for (uint32_t i = 0; i < s->count; i++) {
        const uint32_t *buckets = buckets_at(s, i);
        double *suffix = s->suffix[treated(s, i)], each = e->weights[i] / moments_at(s, i)->n;
        for (uint32_t b = 0; b < EXPERIMENT_BUCKETS; b++)
            suffix[b] += buckets[b] * each;
    }
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t b = EXPERIMENT_BUCKETS; b-- > 0;)
            s->suffix[side][b] += s->suffix[side][b + 1];
}

/* ---- the randomisation test ---- */

/* z of the treated units' values, divided by `ratio`, against those of the baseline's. */
static double compare(const struct sample *s, double ratio)
{
    const struct experiment *e = s->e;
    const double *x = e->values, *w = e->weights;
    double mean[2] = { 0 }, whole, sum = 0, squares = 0, welch[2] = { 0 };
    for (uint32_t i = 0; i < s->count; i++)
        mean[treated(s, i)] += w[i] * x[i];
    mean[1] /= ratio;
    whole = (mean[0] + mean[1]) / (s->weight[0] + s->weight[1]);
    mean[0] /= s->weight[0];
    mean[1] /= s->weight[1];
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t side = treated(s, i);
        double value = side ? x[i] / ratio : x[i], own = w[i] * (value - mean[side]);
        e->parts[i] = w[i] * (value - whole);
        squares += e->parts[i] * e->parts[i];
        welch[side] += own * own;
        if (side)
            sum += e->parts[i];
    }
    double k0 = s->units[0], k1 = s->units[1], p = k1 / (k0 + k1);
    if (s->studentised) {
        double both = (s->weight[0] + s->weight[1]) / (s->weight[0] * s->weight[1]);
        double pooled = p * (1 - p) * squares * both * both;
        double apart = welch[0] / (s->weight[0] * s->weight[0]) * k0 / (k0 - 1) +
                       welch[1] / (s->weight[1] * s->weight[1]) * k1 / (k1 - 1);
        if (apart > pooled)
            sum *= sqrt(pooled / apart);
        return sequence_randomised(e->parts, s->count, p, sum, 0);
    }
    return sequence_randomised(e->parts, s->count, p, sum, 1 / ((double)s->heaviest + EXPERIMENT_WEIGHT_HALF));
}

/* ---- TTFT ---- */

/* The weight of a side above a place on the scale of buckets. */
static double above(const struct sample *s, uint32_t side, double place)
{
    place = fmin(fmax(place, 0), EXPERIMENT_BUCKETS - 1);
    uint32_t b = (uint32_t)place;
    return s->suffix[side][b] + (place - b) * (s->suffix[side][b + 1] - s->suffix[side][b]);
}

/* Where a share of the weight of both sides (or of one: the other's factor is 0) lies above, the treated side's place
 * being `shift` higher. The last bucket is never divided: what never came has no time. */
static double place_of(const struct sample *s, double share, double shift, bool baseline, bool treatment)
{
    double low = -fabs(shift), high = EXPERIMENT_BUCKETS - 1 + fabs(shift);
    double wanted = share * ((baseline ? s->weight[0] : 0) + (treatment ? s->weight[1] : 0));
    for (int i = 0; i < 40; i++) {
        double middle = (low + high) / 2;
        double weight = (baseline ? above(s, 0, middle) : 0) + (treatment ? above(s, 1, middle + shift) : 0);
        if (weight > wanted)
            low = middle;
        else
            high = middle;
    }
    return high;
}

static void exceedances(const struct sample *s, double place, double shift)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const uint32_t *buckets = buckets_at(s, i);
        double at = fmin(fmax(treated(s, i) ? place + shift : place, 0), EXPERIMENT_BUCKETS - 1);
        uint32_t b = (uint32_t)at;
        uint64_t sum = 0;
        for (uint32_t j = b + 1; j < EXPERIMENT_BUCKETS; j++)
            sum += buckets[j];
        double part = b < EXPERIMENT_BUCKETS - 1 ? 1 - (at - b) : 1;
        s->e->values[i] = ((double)sum + part * buckets[b]) / moments_at(s, i)->n;
    }
}

static double quantile_ms(const struct sample *s, uint32_t side)
{
    double place = place_of(s, 1 - s->e->guards[s->guard].quantile, 0, side == 0, side == 1);
    return place >= EXPERIMENT_BUCKETS - 1.001 ? INFINITY : exp2(place / EXPERIMENT_BUCKETS_PER_OCTAVE);
}

/* ---- hypotheses: z of the data against a change ---- */

static double z_of_log_ratio(void *user, double log_ratio)
{
    struct sample *s = user;
    if (s->e->guards[s->guard].metric != METRIC_TTFT)
        return compare(s, exp(log_ratio));
    double shift = log_ratio / M_LN2 * EXPERIMENT_BUCKETS_PER_OCTAVE;
    exceedances(s, place_of(s, 1 - s->e->guards[s->guard].quantile, shift, true, true), shift);
    return compare(s, 1);
}

static double z_of_difference(void *user, double difference)
{
    return sequence_shares(user, difference);
}

/* Effective requests, and how much more units differ than their requests by themselves would. */
static struct sequence_shares shares_of(const struct sample *s)
{
    double inverse[2] = { 0 }, spread = 0, expected = 0;
    const double *x = s->e->values, *w = s->e->weights;
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t side = treated(s, i);
        double apart = w[i] * (x[i] - s->mean[side]), part = w[i] * w[i] / moments_at(s, i)->n;
        inverse[side] += part;
        spread += apart * apart;
        expected += part * s->mean[side] * (1 - s->mean[side]);
    }
    return (struct sequence_shares){
        .share = { s->mean[0], s->mean[1] },
        .n = { s->weight[0] * s->weight[0] / inverse[0], s->weight[1] * s->weight[1] / inverse[1] },
        .dispersion = expected > 0 ? fmax(1, spread / expected) : 1,
    };
}

struct evidence {
    double change, low, high; /* as in struct judgement, of this look alone */
    double z_none, z_tolerance;
};

static void weigh_shares(struct sample *s, double tolerance, double z, struct evidence *ret)
{
    struct sequence_shares shares = shares_of(s);
    double scale = s->e->guards[s->guard].metric == METRIC_FEEDBACK ? 2 : 1;
    double difference = shares.share[1] - shares.share[0];
    double variance = 0;
    for (uint32_t side = 0; side < 2; side++)
        variance += (shares.share[side] * (1 - shares.share[side]) + 1 / shares.n[side]) / shares.n[side];
    double step = z * sqrt(shares.dispersion * variance);
    ret->z_none = compare(s, 1);
    ret->z_tolerance = tolerance == 0 ? ret->z_none : sequence_shares(&shares, tolerance / scale);
    ret->low = sequence_crossing(z_of_difference, &shares, z, difference, -step, -1);
    ret->high = sequence_crossing(z_of_difference, &shares, -z, difference, step, 1);
    /* Whether there is any change the randomisation test knows better. */
    ret->low = ret->z_none >= z ? fmax(ret->low, 0) : fmin(ret->low, 0);
    ret->high = ret->z_none <= -z ? fmin(ret->high, 0) : fmax(ret->high, 0);
    ret->change = scale * difference;
    ret->low *= scale;
    ret->high *= scale;
}

static void weigh_ratios(struct sample *s, double baseline, double treatment, double tolerance, double z,
                         struct evidence *ret)
{
    ret->z_none = z_of_log_ratio(s, 0);
    ret->z_tolerance = tolerance == 0 ? ret->z_none : z_of_log_ratio(s, log1p(tolerance));
    ret->change = isinf(baseline) && isinf(treatment) ? 0 : treatment / baseline - 1;
    ret->low = -1;
    ret->high = INFINITY;
    if (!(baseline > 0) || isinf(baseline))
        return;
    double from = fmin(fmax(log(treatment / baseline), -RATIO_LIMIT), RATIO_LIMIT);
    double low = sequence_crossing(z_of_log_ratio, s, z, from, -0.1, -RATIO_LIMIT);
    double high = sequence_crossing(z_of_log_ratio, s, -z, from, 0.1, RATIO_LIMIT);
    if (low > -RATIO_LIMIT)
        ret->low = expm1(low);
    if (high < RATIO_LIMIT)
        ret->high = expm1(high);
}

/* ---- judgement ---- */

/* log of what one side of one arm's guard may spend at a look. */
static double log_alpha(const struct experiment *e, uint32_t look)
{
    double parts = (e->options.arms - 1.0) * e->options.guard_count * (e->options.two_sided ? 2 : 1);
    return log(sequence_spend(e->options.alpha / parts, look));
}

static void conclude(const struct experiment *e, uint32_t guard, const struct evidence *v, struct judgement *j)
{
    const struct guard *g = &e->guards[guard];
    bool less = metric_less_is_harm(g->metric);
    double z_harm = less ? -v->z_tolerance : v->z_tolerance, z = e->options.two_sided ? fabs(v->z_none) : z_harm;
    double spent = exp(log_alpha(e, j->looks)) / e->options.alpha;
    j->p_value = fmin(j->p_value, fmin(1, sequence_normal_tail(z) / spent));
    j->change = v->change;
    /* Each look's interval holds, so what all of them allow does too. Nothing left: the change was not the same all the
     * time, and the last look speaks for now. */
    j->low = fmax(j->low, v->low);
    j->high = fmin(j->high, v->high);
    if (j->low > j->high) {
        j->low = v->low;
        j->high = v->high;
    }
    if (j->verdict == VERDICT_HARM)
        return;
    if (z_harm >= sequence_normal_quantile(log_alpha(e, j->looks)))
        j->verdict = VERDICT_HARM;
    else if (less ? j->low > -g->tolerance : j->high < g->tolerance)
        j->verdict = VERDICT_NO_HARM;
    else
        j->verdict = VERDICT_UNDECIDED;
}

void experiment_judge_now(struct experiment *e, uint32_t arm, uint32_t guard)
{
    struct judgement *j = &e->judged[arm][guard];
    const struct guard *g = &e->guards[guard];
    struct sample s;
    e->foreseen[arm][guard].kept = false;
    gather(e, arm, guard, &s);
    for (uint32_t side = 0; side < 2; side++) {
        j->units[side] = s.units[side];
        j->requests[side] = s.requests[side];
        j->units_effective[side] = s.effective[side];
    }
    double scale = g->metric == METRIC_FEEDBACK ? 2 : 1, offset = g->metric == METRIC_FEEDBACK ? -1 : 0;
    j->baseline = s.units[0] == 0 ? NAN : g->metric == METRIC_TTFT ? quantile_ms(&s, 0) : s.mean[0] * scale + offset;
    j->treatment = s.units[1] == 0 ? NAN : g->metric == METRIC_TTFT ? quantile_ms(&s, 1) : s.mean[1] * scale + offset;
    if (s.effective[0] < EXPERIMENT_UNITS_LEAST || s.effective[1] < EXPERIMENT_UNITS_LEAST)
        return; /* nothing is spent */
    e->before[arm][guard] = e->now[arm][guard];
    e->now[arm][guard] = (struct growth){ (double)(s.requests[0] + s.requests[1]), (double)(s.units[0] + s.units[1]) };
    j->looks++;
    double z = sequence_normal_quantile(log_alpha(e, j->looks));
    double tolerance = metric_less_is_harm(g->metric) ? -g->tolerance : g->tolerance;
    struct evidence evidence;
    if (metric_is_absolute(g->metric))
        weigh_shares(&s, tolerance, z, &evidence);
    else
        weigh_ratios(&s, j->baseline, j->treatment, tolerance, z, &evidence);
    conclude(e, guard, &evidence, j);
}

/* ---- what more traffic would do ---- */

/* The variance of one value: between units' means, and within a unit between its requests. */
struct components {
    double between, within;
};

static struct components components_of(const struct sample *s, double effect)
{
    const double *x = s->e->values, *w = s->e->weights;
    bool shares = !s->studentised;
    double mean[2] = { 0 }, within = 0, degrees = 0, spread = 0, weight = 0, inverse = 0;
    for (uint32_t i = 0; i < s->count; i++)
        mean[treated(s, i)] += w[i] * x[i] / s->weight[treated(s, i)];
    for (uint32_t i = 0; i < s->count; i++) {
        const struct moments *m = moments_at(s, i);
        double apart = x[i] - mean[treated(s, i)];
        /* Of a share the squares follow from the mean. */
        within += shares ? m->n * x[i] * (1 - x[i]) : m->squares;
        degrees += m->n - 1.0;
        spread += w[i] * apart * apart;
        weight += w[i];
        inverse += w[i] / m->n;
    }
    struct components c = { .within = degrees > 0 ? within / degrees : 0 };
    c.between = fmax(0, (spread * s->count / (s->count - 2.0) - c.within * inverse) / weight);
    if (shares) {
        /* What has not been seen yet still varies: by the shares halfway to what is asked for. */
        double middle = fmin((mean[0] * s->weight[0] + mean[1] * s->weight[1]) / weight + effect / 2, 0.5);
        double least = middle * (1 - middle);
        if (c.within + c.between < least)
            *(degrees > 0 ? &c.within : &c.between) = least;
    }
    return c;
}

/* The variance of the difference of means when there are `units` times as many units with `requests` times as many
 * requests each. */
static double variance_after(const struct sample *s, const struct components *c, double units, double requests)
{
    double sum[2] = { 0 }, weight[2] = { 0 };
    for (uint32_t i = 0; i < s->count; i++) {
        double n = moments_at(s, i)->n * requests, w = n / (n + EXPERIMENT_WEIGHT_HALF);
        sum[treated(s, i)] += w * w * (c->between + c->within / n);
        weight[treated(s, i)] += w;
    }
    return (sum[0] / (weight[0] * weight[0]) + sum[1] / (weight[1] * weight[1])) / units;
}

/* Walks all units for each amount of traffic that it tries. Known: of how many requests in all. */
static enum needed foresee(const struct experiment *e, uint32_t arm, uint32_t guard, double change,
                           uint64_t *ret_requests)
{
    const struct judgement *j = &e->judged[arm][guard];
    const struct growth *before = &e->before[arm][guard], *now = &e->now[arm][guard];
    enum metric metric = e->guards[guard].metric;
    struct sample s;
    if (j->looks == 0)
        return NEEDED_UNKNOWN;
    gather(e, arm, guard, &s);
    double effect = fabs(change);
    if (metric == METRIC_TTFT) {
        double place = place_of(&s, 1 - e->guards[guard].quantile, 0, true, true);
        double shift = log1p(effect) / M_LN2 * EXPERIMENT_BUCKETS_PER_OCTAVE;
        exceedances(&s, place, 0);
        effect = fabs(above(&s, 0, place - shift) - above(&s, 0, place)) / s.weight[0];
    } else if (metric == METRIC_FEEDBACK) {
        effect /= 2;
    } else if (!metric_is_absolute(metric)) {
        effect *= s.mean[0];
    }
    if (!(effect > 0) || !isfinite(effect))
        return NEEDED_UNKNOWN;
    struct components c = components_of(&s, effect);
    /* Units come with requests as between the last two looks: from none (all keys are known) to all (unit: request). */
    double share = before->requests > 0 && now->requests > before->requests
                       ? log(now->units / before->units) / log(now->requests / before->requests)
                       : 0;
    share = e->counts.folded ? 0 : fmin(fmax(share, 0), 1);
    for (uint32_t step = 0; step <= NEEDED_STEPS; step++) {
        double factor = pow(NEEDED_GROWTH, step);
        uint32_t look = j->looks + 1 + (uint32_t)(log(factor) / log(EXPERIMENT_LOOK_GROWTH));
        double z = sequence_normal_quantile(log_alpha(e, look)) + NEEDED_POWER;
        if (z * z * variance_after(&s, &c, pow(factor, share), pow(factor, 1 - share)) > effect * effect)
            continue;
        *ret_requests = (uint64_t)fmax(factor * (double)e->counts.requests, (double)e->next_look);
        return NEEDED_KNOWN;
    }
    return NEEDED_NEVER;
}

enum needed experiment_needed(struct experiment *e, uint32_t arm, uint32_t guard, double change,
                              uint64_t *ret_requests_more)
{
    REQUIRE(arm >= 1 && arm < e->options.arms && guard < e->options.guard_count);
    struct foreseen *f = &e->foreseen[arm][guard];
    if (!f->kept || f->change != change) {
        *f = (struct foreseen){ .kept = true, .change = change };
        f->answer = foresee(e, arm, guard, change, &f->requests);
    }
    if (f->answer == NEEDED_KNOWN)
        *ret_requests_more = f->requests > e->counts.requests ? f->requests - e->counts.requests : 0;
    return f->answer;
}
