#include "controlplane/decide/sequence.h"
#include <math.h>

#define SQRT_2     1.41421356237309504880
#define LOG_2PI    1.83787706640934548356
#define NEWTON_MAX 60

double sequence_spend(double alpha, uint32_t look)
{
    return alpha * 5 / (((double)look + 4) * ((double)look + 5));
}

/* ---- the normal distribution ---- */

double sequence_normal_tail(double z)
{
    return 0.5 * erfc(z / SQRT_2);
}

static double log_tail_of(double z)
{
    if (z < 30)
        return log(sequence_normal_tail(z));
    double s = 1 / (z * z); /* Mills' ratio, Abramowitz and Stegun 26.2.12 */
    return -0.5 * z * z - log(z) - 0.5 * LOG_2PI + log1p(-s + 3 * s * s);
}

double sequence_normal_quantile(double log_tail)
{
    if (!(log_tail < 0))
        return -INFINITY;
    if (log_tail > -0.69314718055994531) {
        double other = log(-expm1(log_tail));
        return other < -0.69314718055994530 ? -sequence_normal_quantile(other) : 0;
    }
    /* The log of the tail is concave: from the right, Newton's steps never cross the root. */
    double z = sqrt(-2 * log_tail);
    for (int i = 0; i < NEWTON_MAX; i++) {
        double tail = log_tail_of(z);
        double slope = -exp(-0.5 * z * z - 0.5 * LOG_2PI - tail);
        double step = (tail - log_tail) / slope;
        z -= step;
        if (fabs(step) < 1e-12 * (1 + z))
            break;
    }
    return z;
}

/* Where only a bound on a tail is known; a bound above a half says nothing. */
static double z_of_bound(double log_bound)
{
    return log_bound < -0.69314718055994531 ? sequence_normal_quantile(log_bound) : 0;
}

/* ---- the randomisation test ---- */

struct cumulants {
    double k1, k2; /* first and second derivative of the cumulant generating function, at one lambda */
};

static struct cumulants cumulants_at(const double *d, size_t count, double p, double lambda)
{
    struct cumulants c = { 0 };
    double q = 1 - p;
    for (size_t i = 0; i < count; i++) {
        double e = exp(-fabs(lambda * d[i]));
        double tilted = lambda * d[i] > 0 ? p / (p + q * e) : p * e / (q + p * e);
        c.k1 += d[i] * tilted;
        c.k2 += d[i] * d[i] * tilted * (1 - tilted);
    }
    return c;
}

static double cumulant(const double *d, size_t count, double p, double lambda)
{
    double k = 0;
    for (size_t i = 0; i < count; i++) {
        double x = lambda * d[i];
        k += x > 0 ? x + log1p((1 - p) * expm1(-x)) : log1p(p * expm1(x));
    }
    return k;
}

/* Solves K'(lambda) = sum for sum above the mean; Newton's steps, kept inside a bracket. */
static double tilt(const double *d, size_t count, double p, double sum, double mean, double lambda, double lambda_max,
                   struct cumulants *ret)
{
    double low = 0, high = INFINITY;
    for (int i = 0; i < NEWTON_MAX; i++) {
        *ret = cumulants_at(d, count, p, lambda);
        double miss = sum - ret->k1;
        if (fabs(miss) < 1e-4 * (sum - mean))
            break;
        if (miss > 0)
            low = lambda;
        else
            high = lambda;
        if (low >= lambda_max)
            break; /* the sum is at the edge of what is possible */
        double next = ret->k2 > 0 ? lambda + miss / ret->k2 : 2 * lambda;
        if (next > 3 * lambda)
            next = 3 * lambda;
        if (next <= low || next >= high)
            next = high < INFINITY ? (low + high) / 2 : 2 * lambda;
        lambda = fmin(next, lambda_max);
    }
    return lambda;
}

double sequence_randomised(const double *d, size_t count, double p, double sum, double lattice)
{
    double total = 0, squares = 0, fourths = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double s = d[i] * d[i];
        total += d[i];
        squares += s;
        fourths += s * s;
        largest = fmax(largest, fabs(d[i]));
    }
    double mean = p * total, variance = p * (1 - p) * squares;
    if (!(variance > 0))
        return 0;
    double first = (sum - mean) / sqrt(variance);
    bool few = squares * squares < SEQUENCE_CONTRIBUTIONS_LEAST * fourths;
    if (fabs(first) < 0.1)
        return few ? 0 : first;
    /* The lower tail is the upper one of the units that are not treated. */
    bool below = first < 0;
    if (below) {
        sum = total - sum;
        mean = total - mean;
        p = 1 - p;
    }
    struct cumulants c;
    double lambda = tilt(d, count, p, sum, mean, fabs(first) / sqrt(variance), 700 / largest, &c);
    double exponent = lambda * sum - cumulant(d, count, p, lambda); /* Chernoff: the tail is at most exp(-exponent) */
    if (!(exponent > 0) || !(c.k2 > 0))
        return 0;
    double z = sqrt(2 * exponent);
    if (few) {
        z = z_of_bound(-exponent);
    } else {
        double step = lattice > 0 ? -expm1(-lambda * lattice) / lattice : lambda;
        double corrected = z + log(step * sqrt(c.k2) / z) / z;
        z = fmax(corrected, z_of_bound(-exponent)); /* at the edge of the support K'' vanishes, the bound stays */
    }
    return below ? -z : z;
}

/* ---- shares ---- */

static double divergence(double p, double q) /* of Bernoulli p from Bernoulli q */
{
    double sum = 0;
    if (p > 0)
        sum += q > 0 ? p * log(p / q) : INFINITY;
    if (p < 1)
        sum += q < 1 ? (1 - p) * (log1p(-p) - log1p(-q)) : INFINITY;
    return sum;
}

static double divergence_slope(double p, double q)
{
    return (q - p) / (q * (1 - q));
}

double sequence_shares(const struct sequence_shares *s, double difference)
{
    double miss = s->share[1] - s->share[0] - difference;
    if (!(s->n[0] > 0) || !(s->n[1] > 0) || miss == 0)
        return 0;
    double low = fmax(0, -difference), high = fmin(1, 1 - difference);
    if (low >= high)
        low = high = difference > 0 ? 0 : 1;
    /* The base share under which the hypothesis fits best: the sum of divergences is convex in it. */
    for (int i = 0; i < 50 && high - low > 1e-12; i++) {
        double q = (low + high) / 2;
        double slope =
            s->n[0] * divergence_slope(s->share[0], q) + s->n[1] * divergence_slope(s->share[1], q + difference);
        if (slope > 0)
            high = q;
        else
            low = q;
    }
    double q = (low + high) / 2;
    double exponent =
        s->n[0] * divergence(s->share[0], q) + s->n[1] * divergence(s->share[1], fmin(fmax(q + difference, 0), 1));
    double z = z_of_bound(-fmin(exponent / s->dispersion, 1e5));
    return miss > 0 ? z : -z;
}

/* ---- intervals ---- */

double sequence_crossing(sequence_curve *curve, void *user, double z, double from, double step, double limit)
{
    double near = from, near_gap = -z, far = from, far_gap = -z;
    bool reached = false;
    while (!reached && far != limit) {
        near = far;
        near_gap = far_gap;
        far = step > 0 ? fmin(far + step, limit) : fmax(far + step, limit);
        far_gap = curve(user, far) - z;
        reached = step > 0 ? far_gap <= 0 : far_gap >= 0;
        /* The next step goes where a straight line would cross, and a little more. */
        double line = 1.1 * far_gap / (near_gap - far_gap) * (far - near) / step;
        step *= line > 1 ? fmin(line, 8) : 2;
    }
    if (!reached)
        return limit;
    /* Between near and far: regula falsi with Illinois' halving. It ends on the far side, where the curve has crossed:
     * the interval is never too short. */
    double width = fabs(far - from);
    int side = 0;
    for (int i = 0; i < 40 && fabs(far - near) > 5e-3 * width && far_gap != 0; i++) {
        double share = fmin(fmax(near_gap / (near_gap - far_gap), 0.02), 0.98);
        double at = near + (share + 0.002) * (far - near), gap = curve(user, at) - z;
        if (gap == 0 || (gap > 0) == (far_gap > 0)) {
            far = at;
            far_gap = gap;
            near_gap = side == 1 ? near_gap / 2 : near_gap;
            side = 1;
        } else {
            near = at;
            near_gap = gap;
            far_gap = side == -1 ? far_gap / 2 : far_gap;
            side = -1;
        }
    }
    return far;
}

/* ---- the ratio of arms ---- */

/* The mixture's weight in units: ratios within some 10% of the expected are its centre. */
#define RATIO_PRIOR_UNITS 100.0

void sequence_ratio_init(struct sequence_ratio *r, const double *shares, uint32_t arms)
{
    REQUIRE(arms >= 1 && arms <= SEQUENCE_ARMS_MAX);
    *r = (struct sequence_ratio){ .arms = arms };
    double sum = 0;
    for (uint32_t a = 0; a < arms; a++) {
        REQUIRE(shares[a] > 0);
        sum += shares[a];
    }
    for (uint32_t a = 0; a < arms; a++)
        r->shares[a] = shares[a] / sum;
}

void sequence_ratio_add(struct sequence_ratio *r, uint32_t arm)
{
    REQUIRE(arm < r->arms);
    uint64_t seen = 0;
    for (uint32_t a = 0; a < r->arms; a++)
        seen += r->counts[a];
    double predicted =
        (RATIO_PRIOR_UNITS * r->shares[arm] + (double)r->counts[arm]) / (RATIO_PRIOR_UNITS + (double)seen);
    r->log_e += log(predicted / r->shares[arm]);
    r->log_e_max = fmax(r->log_e_max, r->log_e);
    r->counts[arm]++;
}

double sequence_ratio_p(const struct sequence_ratio *r)
{
    return exp(-r->log_e_max);
}
