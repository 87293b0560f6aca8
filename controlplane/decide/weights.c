#include "controlplane/decide/weights.h"
#include <math.h>

const char *weights_objective_name(enum weights_objective objective)
{
    static const char *const names[WEIGHTS_OBJECTIVES] = { "cost", "ttft", "speed", "errors", "headroom" };
    return objective < WEIGHTS_OBJECTIVES ? names[objective] : "unknown";
}

const char *weights_exclusion_name(enum weights_exclusion exclusion)
{
    switch (exclusion) {
    case WEIGHTS_IN:
        return "";
    case WEIGHTS_DOWN:
        return "down";
    case WEIGHTS_OVER_TTFT:
        return "ttft_p95";
    case WEIGHTS_OVER_ERRORS:
        return "errors";
    case WEIGHTS_OVER_COST:
        return "cost";
    }
    return "unknown";
}

/* ---- penalties ---- */

static double ttft_of(const struct weights_member *m)
{
    if (m->ttft_ewma_us == 0)
        return m->ttft_p95_us;
    return m->ttft_p95_us ? ((double)m->ttft_ewma_us + m->ttft_p95_us) / 2 : m->ttft_ewma_us;
}

static double trust_of(const struct weights_member *m)
{
    double age = m->age_ms > 0 ? (double)m->age_ms : 0;
    return m->samples / (m->samples + WEIGHTS_TRUST_SAMPLES) * exp2(-age / WEIGHTS_TRUST_HALF_LIFE_MS);
}

#define UNKNOWN (-1.0)

/* What is measured of a member under an objective, or UNKNOWN. */
static double measure(const struct weights_member *m, enum weights_objective objective)
{
    switch (objective) {
    case WEIGHTS_COST:
        return (double)m->cost_nano;
    case WEIGHTS_TTFT:
        return m->samples > 0 && ttft_of(m) > 0 ? ttft_of(m) : UNKNOWN;
    case WEIGHTS_SPEED:
        return m->samples > 0 && m->token_gap_us > 0 ? (double)m->token_gap_us : UNKNOWN;
    case WEIGHTS_ERRORS:
        return m->samples > 0 ? (double)m->errors_ppm : UNKNOWN;
    case WEIGHTS_HEADROOM:
        return m->remaining_ppm <= 1000000 ? (double)m->remaining_ppm : UNKNOWN;
    case WEIGHTS_OBJECTIVES:
        break;
    }
    return UNKNOWN;
}

static double penalty(enum weights_objective objective, double value, double least, double most)
{
    switch (objective) {
    case WEIGHTS_COST:
        return prior_cost_penalty(value, least, most);
    case WEIGHTS_TTFT:
    case WEIGHTS_SPEED:
        return value > 0 ? 1 - least / value : 0;
    case WEIGHTS_ERRORS:
        return fmin((value - least) / WEIGHTS_ERRORS_FULL_PPM, 1);
    case WEIGHTS_HEADROOM:
        return value < WEIGHTS_HEADROOM_LOW_PPM ? (WEIGHTS_HEADROOM_LOW_PPM - value) / WEIGHTS_HEADROOM_LOW_PPM : 0;
    case WEIGHTS_OBJECTIVES:
        break;
    }
    return 0;
}

/* Only members that can be chosen set the scale; the others are measured by it for show. */
static void penalise(enum weights_objective objective, const struct weights_member *members, uint32_t count,
                     struct weights_outcome *out)
{
    double least = INFINITY, most = -INFINITY, sum = 0;
    uint32_t known = 0;
    for (uint32_t i = 0; i < count; i++) {
        double value = measure(&members[i], objective);
        if (value < 0 || out[i].excluded != WEIGHTS_IN)
            continue;
        least = fmin(least, value);
        most = fmax(most, value);
    }
    for (uint32_t i = 0; i < count; i++) {
        double value = measure(&members[i], objective);
        out[i].penalty[objective] =
            value < 0 || least > most ? 0 : fmin(fmax(penalty(objective, value, least, most), 0), 1);
        if (value >= 0 && out[i].excluded == WEIGHTS_IN) {
            sum += out[i].penalty[objective];
            known++;
        }
    }
    double mean = known ? sum / known : 0;
    for (uint32_t i = 0; i < count; i++) {
        double value = measure(&members[i], objective), *x = &out[i].penalty[objective];
        if (objective == WEIGHTS_COST)
            continue;
        if (value < 0)
            *x = mean;
        else if (objective != WEIGHTS_HEADROOM) /* a header is a statement, not a sample */
            *x = mean + (*x - mean) * trust_of(&members[i]);
    }
}

static void score(const struct objective_weights *o, struct weights_outcome *out)
{
    const double weights[WEIGHTS_OBJECTIVES] = { o->cost, o->ttft, o->speed, o->errors, o->headroom };
    double sum = 0, all = 0;
    for (unsigned k = 0; k < WEIGHTS_OBJECTIVES; k++) {
        sum += weights[k] * out->penalty[k];
        all += weights[k];
    }
    out->score = all > 0 ? sum / all : 0;
}

/* ---- who takes part ---- */

/* How far over a bound: 1 is at it. */
static double excess(double value, double bound)
{
    return bound > 0 ? value / bound : 0;
}

static enum weights_exclusion over_bounds(const struct bounds *b, const struct weights_member *m, double *ret_excess)
{
    bool measured = m->samples >= WEIGHTS_BOUND_SAMPLES_LEAST;
    const struct {
        enum weights_exclusion why;
        double excess;
    } all[] = {
        { WEIGHTS_OVER_TTFT, measured ? excess(m->ttft_p95_us, 1000.0 * b->ttft_p95_ms) : 0 },
        { WEIGHTS_OVER_ERRORS, measured ? excess(m->errors_ppm, b->errors_ppm) : 0 },
        { WEIGHTS_OVER_COST, excess((double)m->cost_nano, (double)b->cost_nano_max) },
    };
    enum weights_exclusion why = WEIGHTS_IN;
    *ret_excess = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        double limit = m->was == all[i].why && all[i].why != WEIGHTS_OVER_COST ? WEIGHTS_BACK_SHARE : 1;
        if (all[i].excess > limit && (why == WEIGHTS_IN || all[i].excess > *ret_excess))
            why = all[i].why;
        *ret_excess = fmax(*ret_excess, all[i].excess);
    }
    return why;
}

static void exclude(const struct tier *tier, const struct weights_member *members, uint32_t count,
                    struct weights_outcome *out)
{
    bool all_down = true;
    for (uint32_t i = 0; i < count; i++)
        all_down &= members[i].down;
    uint32_t left = 0, best = count;
    double best_excess = INFINITY;
    for (uint32_t i = 0; i < count; i++) {
        double by = 0;
        out[i].excluded = members[i].down && !all_down ? WEIGHTS_DOWN : over_bounds(&tier->within, &members[i], &by);
        left += out[i].excluded == WEIGHTS_IN;
        if (out[i].excluded != WEIGHTS_DOWN && by < best_excess) {
            best = i;
            best_excess = by;
        }
    }
    if (left == 0)
        out[best].excluded = WEIGHTS_IN;
}

/* ---- weights ---- */

static double floor_of(uint32_t count)
{
    return fmin(WEIGHTS_FLOOR_PPM, (double)WEIGHT_WHOLE / 5 / count);
}

/* Gives every member that takes part at least the floor, at the cost of those above it in proportion. */
static void raise_to_floor(const struct weights_outcome *out, uint32_t count, double *w)
{
    double least = floor_of(count) + 1; /* rounding may take one */
    double above = 0, missing = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (out[i].excluded != WEIGHTS_IN)
            continue;
        if (w[i] < least)
            missing += least - w[i];
        else
            above += w[i] - least;
    }
    for (uint32_t i = 0; i < count && missing > 0; i++) {
        if (out[i].excluded != WEIGHTS_IN)
            continue;
        w[i] = w[i] < least ? least : w[i] - (above > 0 ? (w[i] - least) * missing / above : 0);
    }
}

static void scale(double *w, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += w[i];
    for (uint32_t i = 0; i < count && sum > 0; i++)
        w[i] *= WEIGHT_WHOLE / sum;
}

static void find_target(const struct tier *tier, uint32_t count, struct weights_outcome *out, double *target)
{
    for (uint32_t i = 0; i < count; i++) {
        score(&tier->objectives, &out[i]);
        target[i] = out[i].excluded == WEIGHTS_IN ? exp(-PRIOR_SHARPNESS * out[i].score) : 0;
    }
    scale(target, count);
    raise_to_floor(out, count, target);
}

/* Where the step begins: what cannot wait is done at once. */
static bool find_start(const uint32_t *previous, uint32_t count, const struct weights_outcome *out, double *start)
{
    bool forced = false;
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        start[i] = previous[i];
        if (out[i].excluded == WEIGHTS_DOWN && start[i] > 0) {
            start[i] = 0;
            forced = true;
        }
        forced |= out[i].excluded == WEIGHTS_IN && start[i] < floor_of(count);
        sum += start[i];
    }
    for (uint32_t i = 0; i < count && sum <= 0; i++) /* only the one that went down had any */
        start[i] = out[i].excluded == WEIGHTS_IN;
    scale(start, count);
    if (forced)
        raise_to_floor(out, count, start);
    return forced;
}

void weights_decide(const struct tier *tier, const struct weights_member *members, uint32_t count,
                    const uint32_t *previous, struct weights_outcome *ret)
{
    REQUIRE(count > 0 && count <= TIER_MEMBERS_MAX);
    double target[TIER_MEMBERS_MAX], start[TIER_MEMBERS_MAX], farthest = 0;
    uint32_t ppm[TIER_MEMBERS_MAX];
    memset(ret, 0, count * sizeof *ret);
    exclude(tier, members, count, ret);
    for (unsigned k = 0; k < WEIGHTS_OBJECTIVES; k++)
        penalise((enum weights_objective)k, members, count, ret);
    find_target(tier, count, ret, target);
    prior_normalise(target, count, ppm);
    for (uint32_t i = 0; i < count; i++)
        ret[i].target_ppm = ppm[i];
    bool forced = find_start(previous, count, ret, start);
    bool leaving = false; /* somebody outside its bounds still has weight */
    for (uint32_t i = 0; i < count; i++) {
        farthest = fmax(farthest, fabs(target[i] - start[i]));
        leaving |= ret[i].excluded != WEIGHTS_IN && start[i] > 0;
    }
    if (farthest < WEIGHTS_STILL_PPM && !leaving) {
        if (forced)
            prior_normalise(start, count, ppm);
        for (uint32_t i = 0; i < count; i++)
            ret[i].weight_ppm = forced ? ppm[i] : previous[i];
        return;
    }
    double share = farthest > WEIGHTS_STEP_PPM ? WEIGHTS_STEP_PPM / farthest : 1;
    for (uint32_t i = 0; i < count; i++)
        start[i] += (target[i] - start[i]) * share;
    prior_normalise(start, count, ppm);
    for (uint32_t i = 0; i < count; i++)
        ret[i].weight_ppm = ppm[i];
}
