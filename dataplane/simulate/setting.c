#include "dataplane/simulate/setting.h"
#include "common/fault.h"
#include "proto/wire.h"

#define SETTING_ARENA_MAX ((size_t)1 << 30) /* the largest directory with room */

struct setting {
    struct table *table;
    struct strmap keys; /* id -> struct key_record*, those with routes of their own */
    struct arena arena;
};

static uint32_t no_label(UNUSED void *user, UNUSED unsigned kind, UNUSED struct span name)
{
    return 0;
}

static void all_is_well(UNUSED void *user, UNUSED uint32_t model, struct select_live *ret)
{
    *ret = (struct select_live){ .breaker = 0 };
}

const char *setting_verdict_name(enum setting_verdict verdict)
{
    static const char *const names[] = { [SETTING_OK] = "ok",
                                         [SETTING_UNKNOWN_TEAM] = "unknown_team",
                                         [SETTING_UNKNOWN_MODEL] = "unknown_model",
                                         [SETTING_REFUSED] = "refused" };
    REQUIRE((size_t)verdict < ARRAY_LEN(names));
    return names[verdict];
}

/* A head of one arm that holds this artifact, with the overrides of the given one. */
static enum err make_head(struct setting *w, const struct compiled *compiled, struct span bytes, struct buf *out,
                          const char **ret_why)
{
    struct arm arm = { .name = SPAN("stable"),
                       .policy_version = compiled->artifact->policy_version,
                       .artifact = compiled->artifact->hash };
    struct head head = { .epoch = 1, .generation = 1, .arms = &arm, .arm_count = 1 };
    if (!span_empty(bytes)) {
        struct head *given;
        enum err err = wire_decode_head(&w->arena, bytes, &given, ret_why);
        if (err)
            return err;
        head.overrides = given->overrides;
        head.override_count = given->override_count;
    }
    return wire_encode_head(&head, out);
}

static enum err read_directory(struct setting *w, struct span bytes, struct buf *teams, const char **ret_why)
{
    struct directory_delta *delta;
    strmap_init(&w->keys, &w->arena);
    if (span_empty(bytes))
        return wire_encode_teams(&(struct teams){ .epoch = 0 }, teams);
    enum err err = wire_decode_directory_delta(&w->arena, bytes, &delta, ret_why);
    for (uint32_t i = 0; !err && i < delta->key_count; i++) {
        err = strmap_put(&w->keys, delta->keys[i].id, &delta->keys[i]);
        if (err == ERR_EXISTS)
            err = ERR_INVALID;
    }
    return err ? err : wire_encode_teams(&delta->teams, teams);
}

static enum err build(struct setting *w, const struct setting_objects *o, const char **ret_why)
{
    const struct table_labels labels = { .find = no_label };
    struct compiled *compiled = NULL;
    struct teams_view *teams = NULL;
    struct buf head = BUF_INIT(HEAD_BYTES_MAX), teams_bytes = BUF_INIT(TEAMS_BYTES_MAX);
    enum err err = compiled_new(o->artifact, &labels, &compiled, ret_why);
    if (!err)
        err = make_head(w, compiled, o->head, &head, ret_why);
    if (!err)
        err = read_directory(w, o->directory, &teams_bytes, ret_why);
    if (!err)
        err = teams_view_new(buf_span(&teams_bytes), &labels, &teams, ret_why);
    if (!err)
        err = table_new(buf_span(&head), o->evidence, &compiled, 1, teams,
                        &(struct table_version){ .epoch = 1, .generation = 1 }, &w->table, ret_why);
    if (teams)
        teams_view_unref(teams);
    if (compiled)
        compiled_unref(compiled);
    buf_release(&head);
    buf_release(&teams_bytes);
    return err;
}

enum err setting_new(const struct setting_objects *objects, struct setting **ret, const char **ret_why)
{
    struct setting *w = fault_calloc(1, sizeof(*w));
    if (!w)
        return ERR_NOMEM;
    arena_init(&w->arena, SETTING_ARENA_MAX);
    const char *why = NULL;
    const enum err err = build(w, objects, &why);
    if (err) {
        *ret_why = why ? why : err_name(err);
        setting_free(w);
        return err;
    }
    *ret = w;
    return OK;
}

void setting_free(struct setting *setting)
{
    if (!setting)
        return;
    table_unref(setting->table);
    arena_release(&setting->arena);
    free(setting);
}

const struct arm_view *setting_arm(const struct setting *setting)
{
    return &setting->table->arms[0];
}

bool setting_has_team(const struct setting *setting, struct span team)
{
    return table_team(setting->table, team) != NULL;
}

static struct auth_principal principal_of(const struct setting *w, struct span team, struct span key_id)
{
    static const struct key_record narrows_nothing;
    const struct key_record *key = span_empty(key_id) ? NULL : strmap_get(&w->keys, key_id);
    return (struct auth_principal){ .key = key ? key : &narrows_nothing, .team = table_team(w->table, team) };
}

static struct select_input input_of(const struct setting *w, const struct auth_principal *principal,
                                    const struct ask *ask, int64_t now_ms, const struct resolved *target)
{
    return (struct select_input){ .arm = setting_arm(w),
                                  .target = *target,
                                  .ask = ask,
                                  .team_require = &principal->team->team->require,
                                  .evidence_valid = w->table->evidence != NULL, /* as it was when it was taken */
                                  .wall_ms = now_ms,
                                  .source = { .live = all_is_well } };
}

enum err setting_decide(const struct setting *setting, struct arena *arena, struct span team, struct span key_id,
                        const struct ask *ask, int64_t now_ms, struct setting_answer *ret)
{
    const struct auth_principal principal = principal_of(setting, team, key_id);
    struct setting_answer answer = { .verdict = SETTING_OK };
    if (!principal.team)
        answer.verdict = SETTING_UNKNOWN_TEAM;
    else if (resolve_name(setting_arm(setting), &principal, ask->model, &answer.target))
        answer.verdict = SETTING_UNKNOWN_MODEL;
    if (answer.verdict == SETTING_OK) {
        const struct select_input input = input_of(setting, &principal, ask, now_ms, &answer.target);
        const enum err err = select_distribution(arena, &input, &answer.distribution);
        if (err == ERR_NO_CANDIDATE) {
            const struct plan plan = { .all = answer.distribution.all, .all_count = answer.distribution.all_count };
            answer.verdict = SETTING_REFUSED;
            answer.reason = plan_chief_reason(&plan);
        } else if (err) {
            return err;
        }
    }
    *ret = answer;
    return OK;
}

char *setting_explain(const struct setting *setting, struct arena *arena, struct span team, struct span key_id,
                      const struct ask *ask, int64_t now_ms, const struct setting_answer *answer)
{
    const struct auth_principal principal = principal_of(setting, team, key_id);
    switch (answer->verdict) {
    case SETTING_OK:
        return arena_printf(arena, "it is served");
    case SETTING_UNKNOWN_TEAM:
        return arena_printf(arena, "there is no team " SPAN_FMT, SPAN_ARG(span_head(team, NAME_BYTES_MAX)));
    case SETTING_UNKNOWN_MODEL:
        return resolve_not_found_message(arena, setting_arm(setting), &principal, ask->model);
    case SETTING_REFUSED:
        break;
    }
    const struct select_input input = input_of(setting, &principal, ask, now_ms, &answer->target);
    const struct plan plan = { .all = answer->distribution.all, .all_count = answer->distribution.all_count };
    return plan_explain(arena, &input, &plan);
}
