/* Weights while arms are compared: held in all of them, from the same evidence. Learning from each other's traffic would
 * blur the difference that is looked for; and weights that move in one arm alone would make one. */
#include "common/digest.h"
#include "common/json_fields.h"
#include "controlplane/evidence/evidence_internal.h"

#define HELD_ARENA_MAX ((size_t)64 << 20)

/* Which comparison runs: the ids of its assignments. "" when none does. */
static enum err key_of(const struct head *head, char out[HELD_KEY_BYTES])
{
    size_t len = 0;
    out[0] = '\0';
    for (uint32_t i = 0; head && i < head->assignment_count; i++) {
        const int n =
            snprintf(out + len, HELD_KEY_BYTES - len, "%s" SPAN_FMT, i ? "," : "", SPAN_ARG(head->assignments[i].id));
        if (n < 0 || (size_t)n >= HELD_KEY_BYTES - len)
            return ERR_TOO_LARGE;
        len += (size_t)n;
    }
    return OK;
}

void evidence_hold_begin(struct evidence_state *state)
{
    char key[HELD_KEY_BYTES];
    if (key_of(state->head, key) != OK)
        memset(key, 'x', 1); /* too many to tell apart: held all the same */
    if (strcmp(key, state->held_key) == 0)
        return;
    memcpy(state->held_key, key, sizeof(key));
    state->held_unstored = true;
    for (uint32_t i = 0; i < state->followed_count; i++) {
        for (uint32_t k = 0; k < state->followed[i]->tier_count; k++) {
            state->followed[i]->tiers[k].held = false;
            state->followed[i]->tiers[k].still = false;
        }
    }
}

/* As stored before a restart, in the same comparison. */
static bool restore(const struct evidence_state *state, const struct followed *f, struct followed_tier *t)
{
    const uint32_t count = t->route->tiers[t->tier].member_count;
    if (strcmp(state->restored_key, state->held_key) != 0)
        return false;
    for (uint32_t i = 0; i < state->restored_count; i++) {
        const struct tier_weights *w = &state->restored[i];
        if (!sha256_eq(&w->artifact, &f->hash) || w->tier != t->tier || w->count != count ||
            !span_eq(w->route, t->route->name))
            continue;
        memcpy(t->held_ppm, w->weights_ppm, count * sizeof(*t->held_ppm));
        return true;
    }
    return false;
}

bool evidence_hold_tier(struct evidence_state *state, const struct followed *f, struct followed_tier *t,
                        const struct weights_member *members, struct weights_outcome *outcome)
{
    const struct tier *tier = &t->route->tiers[t->tier];
    double weights[TIER_MEMBERS_MAX], sum = 0;
    if (!state->held_key[0])
        return false;
    if (!t->held && !restore(state, f, t)) {
        struct weights_member up[TIER_MEMBERS_MAX];
        struct weights_outcome target[TIER_MEMBERS_MAX];
        memcpy(up, members, tier->member_count * sizeof(*up));
        for (uint32_t i = 0; i < tier->member_count; i++)
            up[i].down = false; /* who is down for a moment comes back to its share */
        weights_decide(tier, up, tier->member_count, t->weights_ppm, target);
        for (uint32_t i = 0; i < tier->member_count; i++)
            t->held_ppm[i] = target[i].target_ppm;
        state->held_unstored = true;
    }
    t->held = true;
    for (uint32_t i = 0; i < tier->member_count; i++) {
        weights[i] = members[i].down ? 0 : t->held_ppm[i];
        sum += weights[i];
    }
    for (uint32_t i = 0; i < tier->member_count; i++)
        outcome[i].weight_ppm = t->held_ppm[i];
    if (sum > 0) { /* else all are down, and the least bad are tried */
        uint32_t ppm[TIER_MEMBERS_MAX];
        prior_normalise(weights, tier->member_count, ppm);
        for (uint32_t i = 0; i < tier->member_count; i++)
            outcome[i].weight_ppm = ppm[i];
    }
    return true;
}

/* ---- over a restart ---- */

bool evidence_held_unstored(const struct evidence_state *state)
{
    return state->held_unstored;
}

enum err evidence_held_export(struct evidence_state *state, struct buf *out)
{
    struct json_writer w;
    char hex[SHA256_HEX + 1];
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, "key", state->held_key);
    json_key(&w, SPAN("tiers"));
    json_array_open(&w);
    for (uint32_t i = 0; i < state->followed_count; i++) {
        const struct followed *f = state->followed[i];
        for (uint32_t k = 0; k < f->tier_count; k++) {
            const struct followed_tier *t = &f->tiers[k];
            if (!t->held)
                continue;
            json_object_open(&w);
            json_member_cstr(&w, "artifact", hex_encode(f->hash.bytes, SHA256_BYTES, hex));
            json_member_string(&w, "route", t->route->name);
            json_member_u64(&w, "tier", t->tier);
            json_key(&w, SPAN("weights"));
            json_array_open(&w);
            for (uint32_t m = 0; m < t->route->tiers[t->tier].member_count; m++)
                json_put_u64(&w, t->held_ppm[m]);
            json_array_close(&w);
            json_object_close(&w);
        }
    }
    json_array_close(&w);
    json_object_close(&w);
    const enum err err = json_writer_end(&w);
    state->held_unstored = err != OK;
    return err;
}

static void read_tier(struct json_fields *f, uint32_t object, struct tier_weights *ret)
{
    const struct span hex = json_field_text(f, object, "artifact");
    ret->route = json_field_text(f, object, "route");
    ret->tier = (uint32_t)json_field_u64(f, object, "tier", TIERS_MAX);
    const uint32_t array = json_field(f, object, "weights", JSON_ARRAY);
    if (!f->err &&
        (hex_decode(hex, ret->artifact.bytes, SHA256_BYTES) != OK || json_count(f->ix, array) > TIER_MEMBERS_MAX))
        f->err = ERR_CORRUPT;
    if (f->err)
        return;
    ret->weights_ppm = ARENA_ARRAY(f->arena, TIER_MEMBERS_MAX, uint32_t);
    if (!ret->weights_ppm) {
        f->err = ERR_NOMEM;
        return;
    }
    for (uint32_t t = json_first(f->ix, array); t != JSON_NONE; t = json_next(f->ix, array, t))
        ret->weights_ppm[ret->count++] = (uint32_t)json_item_u64(f, t, WEIGHT_WHOLE);
}

enum err evidence_held_import(struct evidence_state *state, struct span blob)
{
    struct arena arena;
    struct json_index ix;
    arena_init(&arena, HELD_ARENA_MAX);
    enum err err = json_index(&arena, blob, &json_limits_default, &ix, NULL);
    struct json_fields f = { .arena = &arena, .ix = &ix, .err = err == ERR_NOMEM || !err ? err : ERR_CORRUPT };
    const struct span key = json_field_text(&f, 0, "key");
    const uint32_t array = json_field(&f, 0, "tiers", JSON_ARRAY);
    struct tier_weights *tiers =
        f.err ? NULL : ARENA_ARRAY(&arena, (size_t)json_count(&ix, array) + 1, struct tier_weights);
    uint32_t count = 0;
    if (!f.err && (!tiers || key.len >= HELD_KEY_BYTES))
        f.err = tiers ? ERR_CORRUPT : ERR_NOMEM;
    for (uint32_t t = f.err ? JSON_NONE : json_first(&ix, array); t != JSON_NONE && !f.err;
         t = json_next(&ix, array, t))
        read_tier(&f, t, &tiers[count++]);
    if (f.err) {
        arena_release(&arena);
        return f.err;
    }
    arena_release(&state->restored_arena);
    state->restored_arena = arena;
    state->restored = tiers;
    state->restored_count = count;
    snprintf(state->restored_key, sizeof(state->restored_key), SPAN_FMT, SPAN_ARG(key));
    return OK;
}
