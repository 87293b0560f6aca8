/* What of all that is learned an operator wants to read in a timeline. */
#include "controlplane/evidence/evidence_internal.h"

#define WEIGHT_MOVE_PPM  100000u /* a member's share has to wander this far from what was told last */
#define WEIGHTS_TEXT_MAX 4u      /* members named in one event: those that moved most */

static const char *health_word(enum health health)
{
    static const char *const words[] = { "is of unknown health", "is up", "is down" };
    return words[health];
}

/* What comes up or is first heard of is no news; what goes down, and comes back from there, is. */
void evidence_tell_health(const struct evidence_state *state, const struct followed_model *m,
                          const struct health_verdict *before, const struct health_verdict *after, int64_t now_ms)
{
    struct event e = { .kind = "health", .where = m->model->name, .why = span_cstr(after->why) };
    if (before->health != after->health && (before->health == HEALTH_DOWN || after->health == HEALTH_DOWN)) {
        e.what = span_cstr(health_word(after->health));
        event_tell(state->sink, now_ms, &e);
    }
    if (before->quarantined != after->quarantined && after->health != HEALTH_DOWN) {
        e.what = after->quarantined ? SPAN("would be down, but that is not believed: too many at once")
                                    : SPAN("is believed again");
        event_tell(state->sink, now_ms, &e);
    }
}

static uint32_t moved(const struct followed_tier *t, uint32_t i)
{
    return t->weights_ppm[i] > t->told_ppm[i] ? t->weights_ppm[i] - t->told_ppm[i] : t->told_ppm[i] - t->weights_ppm[i];
}

/* "a/one 57% -> 45%, a/two (errors) 43% -> 55%": the members that moved most. */
static void weights_text(const struct evidence_state *state, const struct followed *f, const struct followed_tier *t,
                         char *out, size_t bytes)
{
    const struct tier *tier = &t->route->tiers[t->tier];
    bool told[TIER_MEMBERS_MAX] = { false };
    size_t len = 0;
    out[0] = '\0';
    for (unsigned n = 0; n < WEIGHTS_TEXT_MAX && len < bytes; n++) {
        uint32_t most = TIER_MEMBERS_MAX;
        for (uint32_t i = 0; i < tier->member_count; i++)
            if (!told[i] && moved(t, i) > 0 && (most == TIER_MEMBERS_MAX || moved(t, i) > moved(t, most)))
                most = i;
        if (most == TIER_MEMBERS_MAX)
            return;
        told[most] = true;
        const char *excluded = evidence_excluded(state, f, &tier->members[most], &t->last[most]);
        const int put = snprintf(out + len, bytes - len, "%s" SPAN_FMT "%s%s%s %.0f%% -> %.0f%%", n ? ", " : "",
                                 SPAN_ARG(f->artifact->models[tier->members[most].model].name), *excluded ? " (" : "",
                                 excluded, *excluded ? ")" : "", t->told_ppm[most] / 1e4, t->weights_ppm[most] / 1e4);
        len += put > 0 ? (size_t)put : 0;
    }
}

void evidence_tell_weights(const struct evidence_state *state, const struct followed *f, struct followed_tier *t,
                           int64_t now_ms)
{
    const uint32_t members = t->route->tiers[t->tier].member_count;
    char where[NAME_BYTES_MAX + 32], what[512];
    uint32_t most = 0;
    for (uint32_t i = 0; i < members; i++)
        most = moved(t, i) > most ? moved(t, i) : most;
    if (!state->sink || most < WEIGHT_MOVE_PPM)
        return;
    snprintf(where, sizeof(where), SPAN_FMT " tier %u", SPAN_ARG(t->route->name), t->tier + 1);
    weights_text(state, f, t, what, sizeof(what));
    event_tell(state->sink, now_ms,
               &(struct event){ .kind = "weights", .where = span_cstr(where), .what = span_cstr(what) });
    memcpy(t->told_ppm, t->weights_ppm, members * sizeof *t->told_ppm);
}

void evidence_tell_held(const struct evidence_state *state, uint32_t before, struct span sender, int64_t now_ms)
{
    const uint32_t now = prices_held(state->prices);
    char what[96];
    if (now <= before)
        return;
    snprintf(what, sizeof(what), "%u price%s held back in quarantine", now - before, now - before == 1 ? "" : "s");
    event_tell(state->sink, now_ms,
               &(struct event){ .kind = "price",
                                .where = sender,
                                .what = span_cstr(what),
                                .why = SPAN("`fairlead prices list --held` shows them") });
}
