#include "common/clock.h"
#include "common/digest.h"
#include "common/strmap.h"
#include "common/units.h"
#include "controlplane/admin/commands.h"
#include "controlplane/policy/policy.h"
#include "proto/wire.h"

#define KEY_ID_CHARS   12u
#define KEY_TAGS_MAX   16u /* what a person attaches to a key; more is a database */
#define KEY_ROUTES_MAX 64u

/* ---- teams ---- */

struct teams_candidate {
    struct diags diags;
    const struct teams *teams;
    struct span bundle;
};

static enum admin_status load_teams(struct command_call *call, struct teams_candidate *c)
{
    struct policy_bundle *bundle;
    const struct policy *policy;
    struct head *head;
    struct artifact *artifact;
    c->bundle = command_arg(call, "bundle", SPAN(""));
    diags_init(&c->diags, call->arena);
    if (span_empty(c->bundle) || c->bundle.len > PUSH_BYTES_MAX)
        return command_fail(call, ADMIN_INVALID, "the argument 'bundle' is missing or larger than %u bytes",
                            PUSH_BYTES_MAX);
    enum err err = policy_bundle_open(call->arena, c->bundle, &bundle);
    if (err)
        return command_fail(call, ADMIN_INVALID, "the bundle is malformed: %s", err_name(err));
    err = command_head(call, &head);
    if (!err)
        err = command_live_artifact(call, head, &artifact);
    if (err)
        return command_fail_err(call, "reading the live policy", err);
    err = policy_load(call->arena, &bundle->source, bundle->root, &c->diags, &policy);
    if (err)
        return command_refuse_diags(call, &c->diags);
    if (!policy_has_directory(policy))
        return command_fail(call, ADMIN_INVALID,
                            "no document of `kind: directory` in it (a policy is pushed by `fairlead policy push`)");
    err = policy_teams(call->arena, policy, artifact, &c->diags, &c->teams);
    if (err == ERR_INVALID)
        return command_refuse_diags(call, &c->diags);
    return err ? command_fail_err(call, "reading the teams", err) : ADMIN_OK;
}

static enum admin_status teams_changes(struct command_call *call, struct teams_candidate *c,
                                       struct policy_changes *changes)
{
    struct teams *before;
    const enum admin_status status = load_teams(call, c);
    if (status != ADMIN_OK)
        return status;
    enum err err = versions_teams_get(call->service->versions, call->arena, &before, NULL);
    if (!err)
        err = policy_teams_diff(call->arena, before, c->teams, changes);
    return err ? command_fail_err(call, "comparing the teams", err) : ADMIN_OK;
}

static void put_directory_result(struct command_call *call, struct teams_candidate *c,
                                 const struct policy_changes *changes, const struct versions_numbers *numbers)
{
    json_object_open(call->result);
    json_member_u64(call->result, "epoch", numbers->epoch);
    json_member_u64(call->result, "directory", numbers->directory_seq);
    json_member_u64(call->result, "teams", c->teams->count);
    json_key(call->result, SPAN("changes"));
    policy_changes_json(changes, call->result);
    json_key(call->result, SPAN("diagnostics"));
    diags_json(&c->diags, call->result);
    json_object_close(call->result);
}

enum admin_status command_teams_diff(struct command_call *call)
{
    struct teams_candidate c = { 0 };
    struct policy_changes changes = { 0 };
    struct versions_numbers numbers;
    const enum admin_status status = teams_changes(call, &c, &changes);
    if (status != ADMIN_OK)
        return status;
    const enum err err = versions_numbers(call->service->versions, &numbers);
    if (err)
        return command_fail_err(call, "reading the directory", err);
    put_directory_result(call, &c, &changes, &numbers);
    command_fail(call, ADMIN_OK, changes.count ? "%u change%s" : "no change", changes.count,
                 command_plural(changes.count));
    return ADMIN_OK;
}

enum admin_status command_teams_apply(struct command_call *call)
{
    struct teams_candidate c = { 0 };
    struct policy_changes changes = { 0 };
    struct versions_numbers numbers;
    const enum admin_status status = teams_changes(call, &c, &changes);
    if (status != ADMIN_OK)
        return status;
    struct teams copy = *c.teams;
    enum err err = OK;
    if (changes.count > 0) {
        err = versions_teams_put(call->service->versions, &copy, c.bundle);
        call->republish = true;
    }
    if (!err)
        err = versions_numbers(call->service->versions, &numbers);
    if (err)
        return command_fail_err(call, "storing the teams", err);
    put_directory_result(call, &c, &changes, &numbers);
    command_fail(call, ADMIN_OK, changes.count ? "%u team%s, %u change%s applied" : "%u team%s, nothing to change",
                 c.teams->count, command_plural(c.teams->count), changes.count, command_plural(changes.count));
    return ADMIN_OK;
}

static void put_list(struct json_writer *w, const char *key, const struct span_list *list)
{
    json_key(w, span_cstr(key));
    json_array_open(w);
    for (uint32_t i = 0; i < list->count; i++)
        json_put_string(w, list->items[i]);
    json_array_close(w);
}

static void put_requirement(struct json_writer *w, const struct requirement *require)
{
    json_key(w, SPAN("require"));
    json_object_open(w);
    if (require->regions.count)
        put_list(w, "regions", &require->regions);
    if (require->has_retention)
        json_member_u64(w, "max_retention_days", require->max_retention_days);
    if (require->no_training)
        json_member_bool(w, "no_training", true);
    json_object_close(w);
}

static void put_may(struct json_writer *w, uint32_t may)
{
    json_key(w, SPAN("may"));
    json_array_open(w);
    if (may & TEAM_MAY_CHOOSE_ARM)
        json_put_string(w, SPAN("choose_arm"));
    if (may & TEAM_MAY_EXPLAIN)
        json_put_string(w, SPAN("explain"));
    json_array_close(w);
}

enum admin_status command_teams_list(struct command_call *call)
{
    struct teams *teams;
    const enum err err = versions_teams_get(call->service->versions, call->arena, &teams, NULL);
    if (err)
        return command_fail_err(call, "reading the teams", err);
    json_array_open(call->result);
    for (uint32_t i = 0; i < teams->count; i++) {
        const struct team *team = &teams->items[i];
        json_object_open(call->result);
        json_member_string(call->result, "team", team->name);
        put_list(call->result, "routes", &team->routes);
        put_list(call->result, "models", &team->models);
        put_requirement(call->result, &team->require);
        put_may(call->result, team->may);
        json_object_close(call->result);
    }
    json_array_close(call->result);
    command_fail(call, ADMIN_OK, teams->count ? "%u teams" : "no teams yet; `fairlead teams apply FILE` makes them",
                 teams->count);
    return ADMIN_OK;
}

/* ---- keys ---- */

static const char *key_state(const struct key_record *key, int64_t now_ms)
{
    if (key->revoked)
        return "revoked";
    if (key->expires_at_ms && key->expires_at_ms <= now_ms)
        return "expired";
    return key->replaced_by.len ? "rotating" : "active";
}

static void put_key(struct command_call *call, const struct key_record *key)
{
    struct json_writer *w = call->result;
    json_member_string(w, "id", key->id);
    json_member_string(w, "team", key->team);
    json_member_cstr(w, "state", key_state(key, call->now_ms));
    put_list(w, "routes", &key->routes);
    json_member_i64(w, "created_at_ms", key->created_at_ms);
    json_member_i64(w, "expires_at_ms", key->expires_at_ms);
    json_member_string(w, "replaced_by", key->replaced_by);
    json_member_string(w, "hint", key->hint);
    json_key(w, SPAN("tags"));
    json_object_open(w);
    for (uint32_t i = 0; i < key->tag_count; i++) {
        json_key(w, key->tags[i].name);
        json_put_string(w, key->tags[i].value);
    }
    json_object_close(w);
}

static bool has_team(const struct teams *teams, struct span name)
{
    for (uint32_t i = 0; i < teams->count; i++) {
        if (span_eq(teams->items[i].name, name))
            return true;
    }
    return false;
}

static enum admin_status check_team(struct command_call *call, struct span name)
{
    struct teams *teams;
    if (span_empty(name))
        return command_fail(call, ADMIN_INVALID, "say which team the key belongs to: --team NAME");
    const enum err err = versions_teams_get(call->service->versions, call->arena, &teams, NULL);
    if (err)
        return command_fail_err(call, "reading the teams", err);
    if (has_team(teams, name))
        return ADMIN_OK;
    struct strmap names;
    strmap_init(&names, call->arena);
    for (uint32_t i = 0; i < teams->count; i++) {
        if (strmap_put(&names, teams->items[i].name, &teams->items[i]))
            break;
    }
    const struct span near = strmap_nearest(&names, name);
    if (near.len)
        return command_fail(call, ADMIN_NOT_FOUND, "there is no team '" SPAN_FMT "'; did you mean '" SPAN_FMT "'?",
                            SPAN_ARG(span_head(name, 100)), SPAN_ARG(near));
    return command_fail(call, ADMIN_NOT_FOUND,
                        "there is no team '" SPAN_FMT "'; `fairlead teams apply FILE` makes teams",
                        SPAN_ARG(span_head(name, 100)));
}

static bool good_name(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] <= ' ' || name.ptr[i] > '~')
            return false;
    }
    return name.len > 0 && name.len <= NAME_BYTES_MAX;
}

/* A route that the live policy does not have would make a key that silently can do nothing. Before the first push nothing can be checked. */
static enum admin_status check_route(struct command_call *call, const struct artifact *live, struct span pattern)
{
    struct strmap names;
    if (!live)
        return ADMIN_OK;
    strmap_init(&names, call->arena);
    for (uint32_t i = 0; i < live->route_count; i++) {
        if (span_glob(pattern, live->routes[i].name))
            return ADMIN_OK;
        if (strmap_put(&names, live->routes[i].name, &live->routes[i]))
            return command_fail_err(call, "key", ERR_NOMEM);
    }
    const struct span near = strmap_nearest(&names, pattern);
    return command_fail(call, ADMIN_NOT_FOUND, "--routes: the live policy has no route '" SPAN_FMT "'%s" SPAN_FMT "%s",
                        SPAN_ARG(pattern), near.len ? "; did you mean '" : "", SPAN_ARG(near), near.len ? "'?" : "");
}

/* "chat,bulk" */
static enum admin_status parse_routes(struct command_call *call, struct key_record *key)
{
    struct span rest = command_arg(call, "routes", SPAN("")), part;
    struct span *items = ARENA_ARRAY(call->arena, KEY_ROUTES_MAX, struct span);
    struct head *head;
    struct artifact *live = NULL;
    if (span_empty(rest))
        return ADMIN_OK;
    enum err err = items ? command_head(call, &head) : ERR_NOMEM;
    if (!err)
        err = command_live_artifact(call, head, &live);
    if (err)
        return command_fail_err(call, "reading the live policy", err);
    key->routes.items = items;
    while (!span_empty(rest) && span_split(&rest, ',', &part)) {
        part = span_trim(part);
        if (!good_name(part))
            return command_fail(call, ADMIN_INVALID, "--routes: '" SPAN_FMT "' is no route name",
                                SPAN_ARG(span_head(part, 60)));
        if (key->routes.count == KEY_ROUTES_MAX)
            return command_fail(call, ADMIN_INVALID, "--routes: at most %u", KEY_ROUTES_MAX);
        const enum admin_status status = check_route(call, live, part);
        if (status != ADMIN_OK)
            return status;
        items[key->routes.count++] = part;
    }
    return ADMIN_OK;
}

/* Each `tag` argument is "k=v". */
static enum admin_status parse_tags(struct command_call *call, struct key_record *key)
{
    key->tags = ARENA_ARRAY(call->arena, KEY_TAGS_MAX, struct tag);
    if (!key->tags)
        return command_fail_err(call, "key", ERR_NOMEM);
    for (uint32_t i = 0; i < call->request->arg_count; i++) {
        const struct admin_arg *arg = &call->request->args[i];
        if (!span_eq(arg->name, SPAN("tag")))
            continue;
        struct span value = arg->value, name;
        if (!span_split(&value, '=', &name) || !value.ptr || !good_name(name) || !good_name(value))
            return command_fail(call, ADMIN_INVALID, "--tag: '" SPAN_FMT "' is not name=value",
                                SPAN_ARG(span_head(arg->value, 60)));
        if (key->tag_count == KEY_TAGS_MAX)
            return command_fail(call, ADMIN_INVALID, "--tag: at most %u", KEY_TAGS_MAX);
        key->tags[key->tag_count++] = (struct tag){ .name = name, .value = value };
    }
    return ADMIN_OK;
}

/* "24h" from now, or a date; 0 when absent. */
static enum admin_status parse_expiry(struct command_call *call, const char *name, int64_t *ret_at_ms)
{
    const struct span text = command_arg(call, name, SPAN(""));
    uint64_t duration;
    int64_t at;
    *ret_at_ms = 0;
    if (span_empty(text) || span_eq(text, SPAN("never")))
        return ADMIN_OK;
    if (units_parse_duration(text, &duration) == OK && duration < (1ull << 42))
        at = call->now_ms + (int64_t)duration;
    else if (clock_parse_wall(text, &at) != OK)
        return command_fail(call, ADMIN_INVALID,
                            "--%s: '" SPAN_FMT "' is neither a duration (30d, 24h) nor a date (2026-12-31)", name,
                            SPAN_ARG(span_head(text, 60)));
    if (at <= call->now_ms)
        return command_fail(call, ADMIN_INVALID, "--%s: that is in the past", name);
    *ret_at_ms = at;
    return ADMIN_OK;
}

/* The secret is made where it is shown, by the CLI: only its SHA-256 and its last four characters ever come here, so
 * that no stored answer, log or backup can hold it. */
static enum admin_status take_hash(struct command_call *call, struct key_record *key)
{
    char id[sizeof("key_") + KEY_ID_CHARS];
    const struct span hash = command_arg(call, "hash", SPAN(""));
    key->hint = command_arg(call, "hint", SPAN(""));
    if (hex_decode(hash, key->hash.bytes, SHA256_BYTES) != OK || key->hint.len > 4)
        return command_fail(
            call, ADMIN_INVALID,
            "a key is sent as the SHA-256 of its text (64 hex digits), with a hint of at most four characters");
    random_id("key_", KEY_ID_CHARS, id);
    key->id = arena_dup(call->arena, span_cstr(id));
    return key->id.ptr ? ADMIN_OK : command_fail_err(call, "key", ERR_NOMEM);
}

static enum err put_new_key(struct command_call *call, const struct key_record *key)
{
    struct versions_numbers numbers;
    enum err err = versions_key_put(call->service->versions, key);
    if (!err)
        err = versions_numbers(call->service->versions, &numbers);
    if (err)
        return err;
    call->republish = true;
    json_object_open(call->result);
    put_key(call, key);
    json_member_u64(call->result, "epoch", numbers.epoch);
    json_member_u64(call->result, "directory", numbers.directory_seq);
    json_object_close(call->result);
    return OK;
}

static enum admin_status fail_new_key(struct command_call *call, enum err err)
{
    if (err == ERR_EXISTS)
        return command_fail(call, ADMIN_CONFLICT, "this key is there already (perhaps revoked); make a fresh one");
    return command_fail_err(call, "storing the key", err);
}

enum admin_status command_keys_create(struct command_call *call)
{
    struct key_record key = { .team = command_arg(call, "team", SPAN("")), .created_at_ms = call->now_ms };
    enum admin_status status = check_team(call, key.team);
    if (status == ADMIN_OK)
        status = parse_routes(call, &key);
    if (status == ADMIN_OK)
        status = parse_tags(call, &key);
    if (status == ADMIN_OK)
        status = parse_expiry(call, "expires", &key.expires_at_ms);
    if (status == ADMIN_OK)
        status = take_hash(call, &key);
    if (status != ADMIN_OK)
        return status;
    const enum err err = put_new_key(call, &key);
    if (err)
        return fail_new_key(call, err);
    command_fail(call, ADMIN_OK, "key " SPAN_FMT " for team " SPAN_FMT, SPAN_ARG(key.id), SPAN_ARG(key.team));
    return ADMIN_OK;
}

struct keys_listing {
    struct command_call *call;
    struct span team;
    bool all;
    unsigned count;
};

static bool list_key(void *user, const struct key_record *key)
{
    struct keys_listing *listing = user;
    struct command_call *call = listing->call;
    if (listing->team.len && !span_eq(listing->team, key->team))
        return true;
    if (!listing->all && key->revoked)
        return true;
    listing->count++;
    json_object_open(call->result);
    put_key(call, key);
    json_object_close(call->result);
    return true;
}

enum admin_status command_keys_list(struct command_call *call)
{
    struct keys_listing listing = { .call = call,
                                    .team = command_arg(call, "team", SPAN("")),
                                    .all = command_flag(call, "all") };
    json_array_open(call->result);
    const enum err err = versions_keys_each(call->service->versions, list_key, &listing);
    json_array_close(call->result);
    if (err)
        return command_fail_err(call, "reading the keys", err);
    command_fail(call, ADMIN_OK, listing.count ? "%u keys" : "no keys; `fairlead keys create --team NAME` makes one",
                 listing.count);
    return ADMIN_OK;
}

static enum admin_status get_key(struct command_call *call, struct key_record **ret)
{
    const struct span id = command_arg(call, "id", SPAN(""));
    const enum err err = versions_key_by_id(call->service->versions, call->arena, id, ret);
    if (err == ERR_NOT_FOUND)
        return command_fail(call, ADMIN_NOT_FOUND,
                            "there is no key '" SPAN_FMT "'; ids (key_...) are shown by `fairlead keys list`",
                            SPAN_ARG(span_head(id, 60)));
    return err ? command_fail_err(call, "reading the key", err) : ADMIN_OK;
}

enum admin_status command_keys_rotate(struct command_call *call)
{
    struct key_record *old, fresh;
    uint64_t overlap_ms = 0;
    const struct span overlap = command_arg(call, "overlap", SPAN("24h"));
    enum admin_status status = get_key(call, &old);
    if (status != ADMIN_OK)
        return status;
    if (units_parse_duration(overlap, &overlap_ms) != OK || overlap_ms > (1ull << 42))
        return command_fail(call, ADMIN_INVALID, "--overlap: '" SPAN_FMT "' is no duration (24h, 30m, 0)",
                            SPAN_ARG(span_head(overlap, 60)));
    if (old->revoked)
        return command_fail(call, ADMIN_CONFLICT, "this key is revoked; make a new one with `fairlead keys create`");
    if (old->replaced_by.len)
        return command_fail(call, ADMIN_CONFLICT, "this key is being rotated already, to " SPAN_FMT,
                            SPAN_ARG(old->replaced_by));
    if (old->expires_at_ms && old->expires_at_ms <= call->now_ms)
        return command_fail(call, ADMIN_CONFLICT, "this key has expired; make a new one with `fairlead keys create`");
    fresh = *old;
    fresh.created_at_ms = call->now_ms;
    status = take_hash(call, &fresh);
    if (status != ADMIN_OK)
        return status;
    const int64_t end = call->now_ms + (int64_t)overlap_ms;
    old->replaced_by = fresh.id;
    old->expires_at_ms = old->expires_at_ms && old->expires_at_ms < end ? old->expires_at_ms : end;
    enum err err = versions_key_put(call->service->versions, old);
    if (!err)
        err = put_new_key(call, &fresh);
    if (err)
        return fail_new_key(call, err);
    command_fail(call, ADMIN_OK, "key " SPAN_FMT " replaces " SPAN_FMT ", which works for another " SPAN_FMT,
                 SPAN_ARG(fresh.id), SPAN_ARG(old->id), SPAN_ARG(overlap));
    return ADMIN_OK;
}

enum admin_status command_keys_revoke(struct command_call *call)
{
    struct key_record *key;
    struct versions_numbers numbers;
    const enum admin_status status = get_key(call, &key);
    if (status != ADMIN_OK)
        return status;
    enum err err = OK;
    if (!key->revoked) {
        key->revoked = true;
        err = versions_key_put(call->service->versions, key);
        call->republish = true;
    }
    if (!err)
        err = versions_numbers(call->service->versions, &numbers);
    if (err)
        return command_fail_err(call, "storing the key", err);
    json_object_open(call->result);
    put_key(call, key);
    json_member_u64(call->result, "epoch", numbers.epoch);
    json_member_u64(call->result, "directory", numbers.directory_seq);
    json_object_close(call->result);
    command_fail(call, ADMIN_OK, "key " SPAN_FMT " is revoked; nothing brings it back", SPAN_ARG(key->id));
    return ADMIN_OK;
}
