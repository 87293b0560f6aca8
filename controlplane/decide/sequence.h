/* sequence.h - tests that stay valid however often somebody looks. Pure: no state but what is passed in.
 *
 * Evidence against a hypothesis is carried as z: the standard normal deviate with the same one-sided tail, positive where
 * the data lie above the hypothesis. Tails go down to e^-100000 without underflow.
 *
 * Sources:
 *   randomisation test  Fisher 1935. Its tail by saddlepoint: Robinson, JRSS B 44, 1982; the form r*: Barndorff-Nielsen,
 *                       Biometrika 73, 1986. Accurate relative to the tail itself, on a lattice or not, whatever the
 *                       outcomes: Niu, Choudhury, Katsevich, arXiv:2407.08911. On a lattice: Daniels, International
 *                       Statistical Review 55, 1987. Against enumeration of 18 skewed units it is right within a few
 *                       percent on average and within a factor of 2 to 3 at worst, down to tails of 1e-5.
 *   shares              Chernoff's bound with the Kullback-Leibler divergence: Hoeffding, JASA 58, 1963, theorem 1.
 *   spending            a union bound over looks (Darling, Robbins, PNAS 57, 1967). Look k gets 5/((k+4)(k+5)), which sums
 *                       to 1; against 1/(k(k+1)) looks 6 to 20, where most decisions fall, get two to three times as much.
 *   ratio of arms       Lindon, Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022. */
#pragma once
#include "common/base.h"

#define SEQUENCE_ARMS_MAX 4u

/* The share of alpha that look number `look` (from 1) may spend: over all looks it sums to alpha. */
double sequence_spend(double alpha, uint32_t look);
/* P(Z >= z) of a standard normal Z. */
double sequence_normal_tail(double z);
/* The z with tail probability exp(log_tail). log_tail <= 0; 0 gives -INFINITY. */
double sequence_normal_quantile(double log_tail);

/* The randomisation test. d[i] is what unit i contributes when it is treated; each is with probability p in (0, 1),
 * independently of all others and of d; `sum` is what the treated ones contributed. Returns its z. Sums move in steps of
 * `lattice` (0: continuous). Where fewer than SEQUENCE_CONTRIBUTIONS_LEAST units make up most of the variance, no
 * approximation is trusted: Chernoff's bound on the same moment generating function always holds. No variance: 0. */
#define SEQUENCE_CONTRIBUTIONS_LEAST 4.0
double sequence_randomised(const double *d, size_t count, double p, double sum, double lattice);

/* Two shares, each in [0, 1], of n[0] and n[1] effective independent draws whose variance is `dispersion` (>= 1) times
 * the binomial one. Returns z of share[1] - share[0] against the hypothesis that it is `difference` (-1..1). Where
 * nothing was seen, 0 of 100 excludes (at tail a) only what -ln(a)/100 excludes. */
struct sequence_shares {
    double share[2], n[2];
    double dispersion;
};
double sequence_shares(const struct sequence_shares *s, double difference);

/* Where z(at) crosses `z`; z falls with `at`. Looked for from `from`, where z(at) is about 0, by steps of the sign and
 * first size `step`, up to `limit`; returns `limit` where it is not reached before. Found to a hundredth of the way, at
 * the far side. */
typedef double sequence_curve(void *user, double at);
double sequence_crossing(sequence_curve *curve, void *user, double z, double from, double step, double limit);

/* The sample-ratio check: an e-value of "each new unit falls to arm a with probability shares[a]", against a Dirichlet
 * mixture of all other ratios, centred there. */
struct sequence_ratio {
    uint32_t arms;
    double shares[SEQUENCE_ARMS_MAX];
    uint64_t counts[SEQUENCE_ARMS_MAX];
    double log_e, log_e_max;
};
void sequence_ratio_init(struct sequence_ratio *r, const double *shares, uint32_t arms);
void sequence_ratio_add(struct sequence_ratio *r, uint32_t arm);
double sequence_ratio_p(const struct sequence_ratio *r); /* always valid: at most its value by chance, ever */
