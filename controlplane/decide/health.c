#include "controlplane/decide/health.h"

static bool is_down(const struct health_verdict *v)
{
    return v->health == HEALTH_DOWN;
}

/* The previous verdict with its new state and reason; since moves only when the state does. */
static struct health_verdict turn(const struct health_verdict *previous, enum health health, bool by_telemetry,
                                  const char *why, int64_t now_ms)
{
    struct health_verdict v = { .health = health, .by_telemetry = by_telemetry, .since_ms = previous->since_ms };
    if (health != previous->health || previous->since_ms == 0)
        v.since_ms = now_ms;
    snprintf(v.why, sizeof v.why, "%s", why);
    return v;
}

/* What the probes say: down, up, or nothing (unknown, or not often enough to change anything). */
static enum health probes_say(const struct health_input *in, char *why, size_t bytes)
{
    const struct health_probe *p = in->model.known ? &in->model : &in->provider;
    if (!p->known)
        return HEALTH_UNKNOWN;
    if (p->fail_streak >= HEALTH_DOWN_AFTER) {
        snprintf(why, bytes, "%u probes in a row failed: %.150s", p->fail_streak, p->why);
        return HEALTH_DOWN;
    }
    bool was_down = is_down(in->previous) && !in->previous->by_telemetry;
    if (p->ok_streak >= HEALTH_UP_AFTER || (p->ok_streak > 0 && !was_down)) {
        snprintf(why, bytes, "probes answer%s%.150s", p->why[0] ? ": " : "", p->why);
        return HEALTH_UP;
    }
    /* Not often enough to change the verdict, but who looks wants to know what is coming. */
    if (p->fail_streak > 0)
        snprintf(why, bytes, "%u of the %u failed probes that mark it down: %.140s", p->fail_streak, HEALTH_DOWN_AFTER,
                 p->why);
    else
        snprintf(why, bytes, "%u of the %u good probes that mark it up: %.140s", p->ok_streak, HEALTH_UP_AFTER, p->why);
    return in->previous->by_telemetry ? HEALTH_UNKNOWN : in->previous->health;
}

static bool telemetry_condemns(const struct health_input *in, int64_t now_ms, char *why, size_t bytes)
{
    const struct health_verdict *was = in->previous;
    double rate = in->recent > 0 ? in->recent_failures / in->recent : 0;
    if (in->recent >= HEALTH_SAMPLES_LEAST && rate >= HEALTH_ERRORS_DOWN) {
        snprintf(why, bytes, "%.0f%% of the last attempts failed", 100 * rate);
        return true;
    }
    if (!is_down(was) || !was->by_telemetry)
        return false;
    /* Resting: nothing new is known of a model that gets no requests, so time must end it. */
    bool still_bad = in->recent >= HEALTH_SAMPLES_LEAST && rate >= HEALTH_ERRORS_UP;
    bool rested = now_ms - was->since_ms >= HEALTH_REST_MS || now_ms < was->since_ms; /* or the clock was set back */
    if (!still_bad && rested)
        return false;
    snprintf(why, bytes, "%.150s", was->why);
    return true;
}

static bool requests_are_answered(const struct health_input *in, int64_t now_ms)
{
    return in->recent >= HEALTH_SAMPLES_LEAST && in->recent_failures < HEALTH_ERRORS_UP * in->recent &&
           in->answered_at_ms <= now_ms && now_ms - in->answered_at_ms <= HEALTH_ANSWERED_MS;
}

void health_judge(const struct health_input *input, int64_t now_ms, struct health_verdict *ret)
{
    char probe_why[HEALTH_WHY_BYTES_MAX] = "", errors_why[HEALTH_WHY_BYTES_MAX] = "";
    enum health by_probes = probes_say(input, probe_why, sizeof probe_why);
    struct health_verdict v;
    if (by_probes == HEALTH_DOWN && !requests_are_answered(input, now_ms))
        v = turn(input->previous, HEALTH_DOWN, false, probe_why, now_ms);
    else if (telemetry_condemns(input, now_ms, errors_why, sizeof errors_why))
        v = turn(input->previous, HEALTH_DOWN, true, errors_why, now_ms);
    else if (by_probes == HEALTH_UP)
        v = turn(input->previous, HEALTH_UP, false, probe_why, now_ms);
    else if (by_probes == HEALTH_DOWN) {
        char why[HEALTH_WHY_BYTES_MAX];
        snprintf(why, sizeof why, "requests are answered, though %.150s", probe_why);
        v = turn(input->previous, HEALTH_UP, false, why, now_ms);
    } else if (input->recent >= 1 && input->recent_failures < HEALTH_ERRORS_DOWN * input->recent)
        v = turn(input->previous, HEALTH_UP, false, "requests are answered", now_ms);
    else
        v = turn(input->previous, HEALTH_UNKNOWN, false, probe_why[0] ? probe_why : "nothing is known", now_ms);
    *ret = v;
}

uint32_t health_settle(struct health_verdict *verdicts, const struct health_verdict *previous, uint32_t count,
                       int64_t now_ms)
{
    uint32_t doubted = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_down(&verdicts[i]))
            return 0;
        doubted += !is_down(&previous[i]);
    }
    bool all = doubted == 0; /* none is new: what is left of a larger policy, say. Then no verdict is believed. */
    for (uint32_t i = 0; i < count; i++) {
        if (!all && is_down(&previous[i]))
            continue;
        char why[HEALTH_WHY_BYTES_MAX];
        snprintf(why, sizeof why, "every model looks down at once, which is not believed; this one: %.120s",
                 verdicts[i].why);
        verdicts[i] = turn(&previous[i], all ? HEALTH_UNKNOWN : previous[i].health, false, why, now_ms);
        verdicts[i].quarantined = true;
    }
    return all ? count : doubted;
}
