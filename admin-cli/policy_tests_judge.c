#include "admin-cli/policy_tests.h"
#include "common/units.h"
#include <math.h>

#define SHARE_WITHIN 0.0005 /* of a first choice's chance: people write 33.3% for a third */

struct judging {
    struct arena *arena;
    const struct json_index *ix;
    uint32_t answer, candidates;
    struct policy_failure *failures;
    unsigned count;
};

static struct span text_of(const struct judging *j, uint32_t object, const char *name)
{
    struct span text;
    const uint32_t token = json_get(j->ix, object, span_cstr(name));
    return token != JSON_NONE && json_string(j->arena, j->ix, token, &text) == OK ? text : SPAN("");
}

static double number_of(const struct judging *j, uint32_t object, const char *name)
{
    double number;
    const uint32_t token = json_get(j->ix, object, span_cstr(name));
    return token != JSON_NONE && json_double(j->ix, token, &number) == OK ? number : 0;
}

static bool eligible(const struct judging *j, uint32_t candidate)
{
    const uint32_t token = json_get(j->ix, candidate, SPAN("eligible"));
    return token != JSON_NONE && json_kind(j->ix, token) == JSON_TRUE;
}

PRINTF_LIKE(3, 4)
static void fail(struct judging *j, const struct yaml_node *at, const char *fmt, ...)
{
    va_list args;
    char text[1024];
    if (j->count == POLICY_FAILURES_MAX)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    const char *kept = arena_printf(j->arena, "%s", text);
    j->failures[j->count++] = (struct policy_failure){ .at = at, .message = kept ? kept : "out of memory" };
}

/* A text, or any of a list. *ret_count (may be NULL) of how many. */
static bool any_matches(const struct yaml_node *words, struct span name)
{
    if (words->kind == YAML_SCALAR)
        return span_glob(words->text, name);
    for (const struct yaml_node *word = words->first; word; word = word->next)
        if (span_glob(word->text, name))
            return true;
    return false;
}

static void judge_verdict(struct judging *j, const struct yaml_node *expect)
{
    const struct yaml_node *status = yaml_get(expect, "status"), *reason = yaml_get(expect, "reason");
    const struct yaml_node *route = yaml_get(expect, "route");
    const struct span verdict = text_of(j, j->answer, "verdict"), why = text_of(j, j->answer, "why");
    const struct span expected = status ? status->text : reason ? SPAN("refused") : SPAN("ok");
    if (!span_eq(verdict, expected))
        fail(j,
             status   ? status
             : reason ? reason
                      : expect,
             "expected %.*s, but it is %.*s: %.*s", (int)expected.len, expected.ptr, (int)verdict.len, verdict.ptr,
             (int)size_min(why.len, 600), why.ptr);
    const struct span because = text_of(j, j->answer, "reason"), by = text_of(j, j->answer, "route");
    if (reason && span_eq(verdict, SPAN("refused")) && !span_eq(because, reason->text))
        fail(j, reason, "it is refused for another reason: %.*s", (int)because.len, because.ptr);
    if (route && !span_eq(by, route->text))
        fail(j, route, "%.*s serves it", (int)(by.len ? by.len : 8), by.len ? by.ptr : "no route");
}

static void judge_regions(struct judging *j, const struct yaml_node *region, uint32_t candidate, struct span model)
{
    const uint32_t regions = json_get(j->ix, candidate, SPAN("regions"));
    if (regions == JSON_NONE || json_count(j->ix, regions) == 0) {
        fail(j, region, "%.*s may serve it, whose regions nobody has said", (int)model.len, model.ptr);
        return;
    }
    for (uint32_t t = json_first(j->ix, regions); t != JSON_NONE; t = json_next(j->ix, regions, t)) {
        struct span name;
        if (json_string(j->arena, j->ix, t, &name) == OK && !any_matches(region, name))
            fail(j, region, "%.*s may serve it, in region %.*s", (int)model.len, model.ptr, (int)name.len, name.ptr);
    }
}

/* What holds for everybody who may serve. */
static void judge_candidate(struct judging *j, const struct yaml_node *expect, uint32_t candidate)
{
    const struct yaml_node *models = yaml_get(expect, "models"), *never = yaml_get(expect, "never");
    const struct yaml_node *region = yaml_get(expect, "region"), *most = yaml_get(expect, "cost_at_most_usd");
    const struct span model = text_of(j, candidate, "model");
    int64_t nano = 0;
    if (models && !any_matches(models, model))
        fail(j, models, "%.*s may serve it, which is none of them", (int)model.len, model.ptr);
    if (never && any_matches(never, model))
        fail(j, never, "%.*s may serve it", (int)model.len, model.ptr);
    if (region)
        judge_regions(j, region, candidate, model);
    const double cost = number_of(j, candidate, "estimate_usd");
    if (most && units_parse_usd(most->text, &nano) == OK && cost > (double)nano / 1e9 + 1e-12)
        fail(j, most, "%.*s may serve it, for an estimated $%.9g", (int)model.len, model.ptr, cost);
}

static void judge_first(struct judging *j, const struct yaml_node *first)
{
    for (const struct yaml_node *share = first->first; share; share = share->next) {
        double chance = 0;
        uint32_t ppm = 0;
        for (uint32_t t = json_first(j->ix, j->candidates); t != JSON_NONE; t = json_next(j->ix, j->candidates, t))
            if (span_eq(text_of(j, t, "model"), share->key->text))
                chance += number_of(j, t, "first");
        if (units_parse_share(share->text, &ppm) == OK && fabs(chance - ppm / 1e6) > SHARE_WITHIN)
            fail(j, share, "it is the first choice for %.2f%%", 100 * chance);
    }
}

unsigned policy_test_judge(struct arena *arena, const struct policy_test *test, const struct json_index *ix,
                           uint32_t answer, struct policy_failure failures[POLICY_FAILURES_MAX])
{
    struct judging j = { .arena = arena, .ix = ix, .answer = answer, .failures = failures };
    const struct yaml_node *first = yaml_get(test->expect, "first");
    j.candidates = json_get(ix, answer, SPAN("candidates"));
    judge_verdict(&j, test->expect);
    if (j.candidates == JSON_NONE)
        return j.count;
    for (uint32_t t = json_first(ix, j.candidates); t != JSON_NONE; t = json_next(ix, j.candidates, t))
        if (eligible(&j, t))
            judge_candidate(&j, test->expect, t);
    if (first)
        judge_first(&j, first);
    return j.count;
}
