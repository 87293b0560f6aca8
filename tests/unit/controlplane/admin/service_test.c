/* Commands against a real store and real evidence: what each changes, and that it changes all of it or nothing. */
#include "controlplane/admin/service.h"
#include "common/digest.h"
#include "tests/unit/controlplane/publish/support.h"

#define T0 INT64_C(1800000000000)

static struct store *store;
static struct service service;
static unsigned changed, request_number;
static int64_t now_ms;
static struct admin_reply *reply;

static void on_changed(void *user)
{
    (void)user;
    changed++;
    assert_int_equal(pilot_follow(service.pilot), OK);
}

static void no_reply(void *user, void *call, struct span bytes)
{
    (void)user, (void)call, (void)bytes;
}

static const char book[] = "schema: fairlead/1\nkind: prices\nprices:\n"
                           "  openai/gpt-4o: {input: 2.50, output: 10.00, can: [chat]}\n"
                           "  groq/llama: {input: 0.50, output: 0.80, can: [chat]}\n";

static int set_up(void **state)
{
    const char *why = "";
    if (store_set_up(state) != 0)
        return -1;
    store = *state;
    service =
        (struct service){ .versions = store->versions, .started_at_ms = T0, .home = "/nowhere", .changed = on_changed };
    assert_int_equal(evidence_state_new(&service.evidence), OK);
    assert_int_equal(evidence_load_shipped(service.evidence, span_cstr(book), &why), OK);
    assert_int_equal(nodes_new(&service.nodes), OK);
    assert_int_equal(publisher_new(store->versions, service.nodes, no_reply, NULL, &service.publisher), OK);
    assert_int_equal(pilot_new(store->versions, &service.pilot), OK);
    changed = 0;
    now_ms = T0;
    return 0;
}

static int tear_down(void **state)
{
    fault_disarm_all();
    pilot_free(service.pilot);
    publisher_free(service.publisher);
    nodes_free(service.nodes);
    evidence_state_free(service.evidence);
    return store_tear_down(state);
}

/* ---- asking ---- */

struct ask {
    enum role role;
    bool dry_run;
    const char *id; /* NULL: a fresh one */
    uint32_t uid;
    const char *name; /* as the system knows the peer; NULL: unknown */
};

static const struct ask as_admin = { .role = ROLE_ADMIN };

/* words: the command, then names and values of its arguments, then NULL. */
static enum admin_status ask_as(struct ask ask, const char *const *words)
{
    struct admin_arg list[8];
    struct buf request_bytes = BUF_INIT(1u << 20), bytes = BUF_INIT(FRAME_BYTES_MAX);
    struct json_index ix;
    char id[32];
    snprintf(id, sizeof(id), "request-%08u", ++request_number);
    struct admin_request request = { .protocol = LINK_PROTOCOL,
                                     .request_id = span_cstr(ask.id ? ask.id : id),
                                     .command = span_cstr(words[0]),
                                     .user = SPAN("ann"),
                                     .args = list,
                                     .dry_run = ask.dry_run };
    for (words++; words[0]; words += 2)
        list[request.arg_count++] = (struct admin_arg){ .name = span_cstr(words[0]), .value = span_cstr(words[1]) };
    assert_int_equal(wire_encode_admin_request(&request, &request_bytes), OK);
    const struct caller caller = { .role = ask.role,
                                   .uid = ask.uid ? ask.uid : CALLER_UID_UNKNOWN,
                                   .name = span_cstr(ask.name) };
    service_execute(&service, buf_span(&request_bytes), &caller, now_ms++, &bytes);
    assert_int_equal(wire_decode_admin_reply(&store->arena, buf_span(&bytes), &reply), OK);
    if (reply->result.len) /* whatever the outcome: JSON or nothing */
        assert_int_equal(json_index(&store->arena, reply->result, &json_limits_default, &ix, NULL), OK);
    buf_release(&request_bytes);
    buf_release(&bytes);
    return reply->status;
}

#define ASK_AS(how, ...) ask_as(how, (const char *const[]){ __VA_ARGS__, NULL })
#define ASK(...)         ASK_AS(as_admin, __VA_ARGS__)

static void says(const char *what)
{
    if (span_find(reply->message, span_cstr(what)) == SIZE_MAX)
        fail_msg("'" SPAN_FMT "' does not say '%s'", SPAN_ARG(reply->message), what);
}

static bool result_has(const char *what)
{
    return span_find(reply->result, span_cstr(what)) != SIZE_MAX;
}

static const char *bundle_of(const char *text)
{
    const char *made = arena_printf(&store->arena, "{\"files\":[{\"name\":\"policy.yaml\",\"text\":\"%s\"}]}", text);
    assert_non_null(made);
    return made;
}

/* Policies that differ in one number. */
static const char *policy(unsigned number)
{
    return bundle_of(arena_printf(&store->arena,
                                  "schema: fairlead/1\\nkind: policy\\nproviders:\\n  openai: {preset: openai, "
                                  "credentials: [k]}\\n  groq: {preset: groq, credentials: [k]}\\nmodels:\\n  "
                                  "openai/gpt-4o: {}\\n  groq/llama: {}\\nroutes:\\n  chat: {tiers: [{models: "
                                  "{openai/gpt-4o: %u, groq/llama: 30}}]}\\n",
                                  number));
}

static const char *directory(const char *teams)
{
    return bundle_of(arena_printf(&store->arena, "schema: fairlead/1\\nkind: directory\\nteams:\\n%s", teams));
}

static enum admin_status push(unsigned number)
{
    return ASK("policy.push", "bundle", policy(number));
}

static struct head *live(void)
{
    struct head *head;
    begin(store, false);
    assert_int_equal(versions_head_get(store->versions, &store->arena, 0, &head), OK);
    versions_abort(store->versions);
    return head;
}

static unsigned live_version(void)
{
    return live()->arms[0].policy_version;
}

static void state_is(unsigned version, enum version_state state)
{
    struct version_record *r;
    begin(store, false);
    assert_int_equal(versions_get(store->versions, &store->arena, version, false, &r), OK);
    versions_abort(store->versions);
    assert_int_equal(r->state, state);
}

/* ---- policies ---- */

static void pushing(void **state)
{
    (void)state;
    assert_int_equal(ASK("rollback"), ADMIN_NOT_FOUND);
    assert_int_equal(push(70), ADMIN_OK);
    says("the first version");
    assert_int_equal(changed, 1);
    assert_int_equal(live_version(), 1);
    assert_int_equal(push(70), ADMIN_OK); /* same content */
    says("nothing to do");
    assert_int_equal(changed, 1);
    assert_int_equal(numbers(store).version_last, 1);
    assert_int_equal(push(71), ADMIN_OK);
    says("v2 is live at 100% (was v1)");
    state_is(1, VERSION_RETIRED);
    state_is(2, VERSION_LIVE);
    assert_int_equal(ASK("policy.push", "bundle", policy(72), "store", "true"), ADMIN_OK);
    assert_int_equal(live_version(), 2);
    state_is(3, VERSION_STORED);
    assert_int_equal(ASK("policy.push", "bundle", policy(73), "expect", "v1"), ADMIN_CONFLICT);
    says("v2 is");
    assert_int_equal(ASK("policy.push", "bundle", policy(73), "expect", "2"), ADMIN_OK);
    assert_int_equal(live_version(), 4);
    assert_int_equal(push(70), ADMIN_OK); /* an older content comes back as itself */
    says("live again");
    assert_int_equal(live_version(), 1);
    assert_int_equal(numbers(store).version_last, 4);
    assert_int_equal(numbers(store).audit_seq, 6); /* also those that found nothing to do */
    assert_int_equal(ASK("policy.list"), ADMIN_OK);
    says("4 versions");
    assert_int_equal(ASK("policy.show", "version", "v9"), ADMIN_NOT_FOUND);
    assert_int_equal(ASK("policy.show", "version", "vx"), ADMIN_INVALID);
    assert_int_equal(ASK("policy.show"), ADMIN_OK);
    assert_true(result_has("\"bundle\":{\"files\""));
}

static void bad_policies(void **state)
{
    (void)state;
    assert_int_equal(ASK("policy.push"), ADMIN_INVALID);
    assert_int_equal(ASK("policy.push", "bundle", "{"), ADMIN_INVALID);
    assert_int_equal(ASK("policy.push", "bundle", bundle_of("schema: fairlead/1\\nkind: policy\\nroute: {}\\n")),
                     ADMIN_INVALID);
    says("policy.yaml:1:1: error:");
    says("(and more)");
    assert_true(result_has("\"diagnostics\""));
    assert_true(result_has("'routes'"));
    assert_int_equal(ASK("policy.push", "bundle", directory("  research: {routes: [chat]}\\n")), ADMIN_INVALID);
    says("teams apply");
    assert_int_equal(ASK("policy.check", "bundle", policy(70)), ADMIN_OK);
    says("1 route");
    assert_int_equal(numbers(store).version_last, 0);
    assert_int_equal(changed, 0);
}

static void rolling_back(void **state)
{
    (void)state;
    push(1), push(2), push(3);
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    assert_int_equal(live_version(), 2);
    says("returned to v2");
    state_is(3, VERSION_ROLLED_BACK);
    assert_int_equal(ASK("rollback"), ADMIN_OK); /* not back to v3 */
    assert_int_equal(live_version(), 1);
    assert_int_equal(ASK("rollback"), ADMIN_NOT_FOUND);
    says("no other version");
    assert_int_equal(live_version(), 1);
    assert_int_equal(push(3), ADMIN_CONFLICT); /* rolled back: only if meant */
    says("--again");
    assert_int_equal(live_version(), 1);
    assert_int_equal(ASK("policy.push", "bundle", policy(3), "again", "true"), ADMIN_OK);
    assert_int_equal(live_version(), 3);
    state_is(3, VERSION_LIVE);
    assert_int_equal(ASK("rollback", "version", "3"), ADMIN_OK);
    says("nothing to do");
    assert_int_equal(ASK("rollback", "version", "8"), ADMIN_NOT_FOUND);
    assert_int_equal(ASK("rollback", "version", "2"), ADMIN_OK);
    assert_int_equal(live_version(), 2);
    ASK("policy.push", "bundle", policy(4), "store", "1");
    assert_int_equal(ASK("rollback", "version", "4"), ADMIN_OK); /* a stored one goes live; nothing was wrong with v2 */
    assert_int_equal(live_version(), 4);
    state_is(2, VERSION_RETIRED);
}

static void dry_runs_change_nothing(void **state)
{
    const struct ask dry = { .role = ROLE_ADMIN, .dry_run = true };
    (void)state;
    push(1), push(2);
    const struct versions_numbers before = numbers(store);
    const unsigned changed_before = changed;
    assert_int_equal(ASK_AS(dry, "policy.push", "bundle", policy(3)), ADMIN_OK);
    assert_int_equal(ASK_AS(dry, "rollback"), ADMIN_OK);
    assert_int_equal(ASK_AS(dry, "teams.apply", "bundle", directory("  research: {routes: [chat]}\\n")), ADMIN_OK);
    assert_int_equal(ASK_AS(dry, "providers.drain", "name", "openai", "reason", "x"), ADMIN_OK);
    assert_int_equal(ASK_AS(dry, "prices.set", "name", "openai/gpt-4o", "input", "1", "output", "2"), ADMIN_OK);
    assert_true(result_has("\"source\":\"set\""));
    assert_int_equal(ASK_AS(dry, "nodes.adopt", "all", "true"), ADMIN_OK);
    assert_int_equal(nodes_adopted(service.nodes, SPAN("n")), 0);
    const struct versions_numbers after = numbers(store);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(changed, changed_before);
    assert_int_equal(ASK("prices.list"), ADMIN_OK);
    assert_false(result_has("\"source\":\"set\"")); /* not even in memory */
}

static void a_request_is_executed_once(void **state)
{
    const struct ask same = { .role = ROLE_ADMIN, .id = "the-same-id" };
    (void)state;
    assert_int_equal(ASK_AS(same, "policy.push", "bundle", policy(1)), ADMIN_OK);
    const struct versions_numbers before = numbers(store);
    push(2);
    assert_int_equal(ASK_AS(same, "policy.push", "bundle", policy(1)), ADMIN_OK);
    says("v1 is live at 100%, the first version"); /* the first answer, word for word */
    assert_int_equal(live_version(), 2);
    assert_int_equal(numbers(store).generation, before.generation + 1);
    assert_int_equal(changed, 2);
    const struct ask short_id = { .role = ROLE_ADMIN, .id = "short" };
    assert_int_equal(ASK_AS(short_id, "policy.push", "bundle", policy(3)), ADMIN_INVALID);
}

static void roles(void **state)
{
    const struct ask viewer = { .role = ROLE_VIEWER }, operator_ = { .role = ROLE_OPERATOR };
    (void)state;
    for (unsigned i = 0; i < service_command_count; i++) {
        const struct command *c = &service_commands[i];
        if (c->role > ROLE_VIEWER)
            assert_int_equal(ASK_AS(viewer, c->name), ADMIN_DENIED);
        if (c->role > ROLE_OPERATOR)
            assert_int_equal(ASK_AS(operator_, c->name), ADMIN_DENIED);
        assert_true(!c->mutates || c->role > ROLE_VIEWER);
        assert_int_not_equal(ASK(c->name), ADMIN_INTERNAL); /* without arguments, on an empty store */
    }
    assert_int_equal(ASK("no.such"), ADMIN_NOT_FOUND);
    struct buf bytes = BUF_INIT(1u << 20);
    service_execute(&service, SPAN("\xff garbage"), &(struct caller){ .role = ROLE_ADMIN }, now_ms, &bytes);
    assert_int_equal(wire_decode_admin_reply(&store->arena, buf_span(&bytes), &reply), OK);
    assert_int_equal(reply->status, ADMIN_INVALID);
    buf_release(&bytes);
}

/* ---- the directory ---- */

static const char *hash_of(const char *text)
{
    char hex[SHA256_HEX + 1];
    const struct sha256 hash = sha256_of(span_cstr(text));
    return arena_dup(&store->arena, span_cstr(hex_encode(hash.bytes, SHA256_BYTES, hex))).ptr;
}

static const char *id_in_result(void)
{
    struct json_index ix;
    struct span id;
    assert_int_equal(json_index(&store->arena, reply->result, &json_limits_default, &ix, NULL), OK);
    assert_int_equal(json_string(&store->arena, &ix, json_get(&ix, 0, SPAN("id")), &id), OK);
    return arena_dup(&store->arena, id).ptr;
}

static const struct key_record *key_by_id(const char *id)
{
    struct key_record *key;
    begin(store, false);
    assert_int_equal(versions_key_by_id(store->versions, &store->arena, span_cstr(id), &key), OK);
    versions_abort(store->versions);
    return key;
}

static void a_team(void)
{
    push(1);
    assert_int_equal(ASK("teams.apply", "bundle", directory("  research: {routes: [chat]}\\n")), ADMIN_OK);
}

static void teams(void **state)
{
    (void)state;
    a_team();
    says("1 team, 1 change");
    const unsigned before = changed;
    assert_int_equal(ASK("teams.apply", "bundle", directory("  research: {routes: [chat]}\\n")), ADMIN_OK);
    says("nothing to change");
    assert_int_equal(changed, before);
    assert_int_equal(ASK("teams.diff", "bundle", directory("  hr: {routes: [chat]}\\n")), ADMIN_OK);
    says("2 changes");
    assert_int_equal(ASK("teams.apply", "bundle", directory("  hr: {route: [chat]}\\n")), ADMIN_INVALID);
    says("policy.yaml:4:");
    assert_true(result_has("routes"));
    assert_int_equal(ASK("teams.apply", "bundle", policy(1)), ADMIN_INVALID);
    assert_int_equal(ASK("teams.list"), ADMIN_OK);
    assert_true(result_has("\"team\":\"research\""));
}

static void keys_of_routes(void **state)
{
    (void)state;
    /* Nothing is live: nothing to check against. */
    assert_int_equal(ASK("teams.apply", "bundle", directory("  research: {routes: [chat]}\\n")), ADMIN_OK);
    assert_int_equal(ASK("keys.create", "team", "research", "hash", hash_of("r0"), "routes", "later"), ADMIN_OK);
    push(1);
    assert_int_equal(ASK("keys.create", "team", "research", "hash", hash_of("r1"), "routes", "chta"), ADMIN_NOT_FOUND);
    says("did you mean 'chat'?");
    assert_int_equal(ASK("keys.create", "team", "research", "hash", hash_of("r1"), "routes", "chat, ch*"), ADMIN_OK);
    assert_true(result_has("\"routes\":[\"chat\",\"ch*\"]"));
}

static void keys(void **state)
{
    (void)state;
    a_team();
    assert_int_equal(ASK("keys.create", "team", "reserch", "hash", hash_of("k1")), ADMIN_NOT_FOUND);
    says("did you mean 'research'?");
    assert_int_equal(ASK("keys.create", "team", "research", "hash", "abc"), ADMIN_INVALID);
    assert_int_equal(ASK("keys.create", "team", "research", "hash", hash_of("k1"), "hint", "wxyz", "expires", "1h"),
                     ADMIN_OK);
    const char *id = id_in_result();
    assert_true(span_starts(span_cstr(id), SPAN("key_")));
    assert_true(span_eq(key_by_id(id)->hint, SPAN("wxyz")));
    const struct sha256 hash = sha256_of(SPAN("k1"));
    assert_true(sha256_eq(&key_by_id(id)->hash, &hash));
    /* Rotation: both work for the overlap, never longer than the old one would have. */
    assert_int_equal(ASK("keys.rotate", "id", id, "hash", hash_of("k1"), "overlap", "10m"), ADMIN_CONFLICT);
    assert_int_equal(key_by_id(id)->replaced_by.len, 0);
    assert_int_equal(ASK("keys.rotate", "id", id, "hash", hash_of("k2"), "overlap", "10m"), ADMIN_OK);
    const char *fresh = id_in_result();
    assert_string_not_equal(fresh, id);
    assert_true(span_eq(key_by_id(id)->replaced_by, span_cstr(fresh)));
    assert_in_range(key_by_id(id)->expires_at_ms, T0 + 600000, T0 + 601000);
    assert_in_range(key_by_id(fresh)->expires_at_ms, T0 + 3600000, T0 + 3601000);
    assert_int_equal(ASK("keys.rotate", "id", id, "hash", hash_of("k3")), ADMIN_CONFLICT);
    assert_int_equal(ASK("keys.rotate", "id", "key_none", "hash", hash_of("k3")), ADMIN_NOT_FOUND);
    assert_int_equal(ASK("keys.rotate", "id", fresh, "hash", hash_of("k3"), "overlap", "soon"), ADMIN_INVALID);
    assert_int_equal(ASK("keys.revoke", "id", fresh), ADMIN_OK);
    assert_int_equal(ASK("keys.rotate", "id", fresh, "hash", hash_of("k3")), ADMIN_CONFLICT);
    assert_int_equal(ASK("keys.create", "team", "research", "hash", hash_of("k2")), ADMIN_CONFLICT); /* stays revoked */
    assert_true(key_by_id(fresh)->revoked);
    now_ms += 3600000;
    assert_int_equal(ASK("keys.create", "team", "research", "hash", hash_of("k4"), "expires", "1h"), ADMIN_OK);
    id = id_in_result();
    now_ms += 3600001;
    assert_int_equal(ASK("keys.rotate", "id", id, "hash", hash_of("k5")), ADMIN_CONFLICT);
    says("expired");
}

static void no_rollback_restores_a_key(void **state)
{
    (void)state;
    a_team();
    ASK("keys.create", "team", "research", "hash", hash_of("k1"));
    const char *id = id_in_result();
    push(2);
    assert_int_equal(ASK("keys.revoke", "id", id), ADMIN_OK);
    assert_int_equal(ASK("keys.revoke", "id", id), ADMIN_OK); /* again: harmless */
    const uint64_t seq = numbers(store).directory_seq;
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    assert_true(key_by_id(id)->revoked);
    assert_int_equal(numbers(store).directory_seq, seq);
}

/* ---- overrides and prices ---- */

static void drains_survive_rollback_and_expire(void **state)
{
    (void)state;
    push(1), push(2);
    assert_int_equal(ASK("providers.drain", "name", "opnai", "reason", "x"), ADMIN_NOT_FOUND);
    says("did you mean 'openai'?");
    assert_int_equal(ASK("providers.drain", "name", "openai", "reason", "maintenance", "expires", "1h"), ADMIN_OK);
    assert_int_equal(ASK("providers.drain", "name", "groq/llama", "reason", "odd"), ADMIN_OK);
    assert_int_equal(ASK("weights.freeze", "name", "chat", "reason", "demo"), ADMIN_OK);
    assert_int_equal(ASK("weights.freeze", "name", "chta", "reason", "demo"), ADMIN_NOT_FOUND);
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    assert_int_equal(live()->override_count, 3);
    assert_int_equal(live()->overrides[0].expires_at_ms / 1000, (T0 + 3600000) / 1000);
    now_ms += 3600001;
    assert_int_equal(ASK("providers.undrain", "name", "groq/llama"), ADMIN_OK);
    assert_int_equal(live()->override_count, 1); /* the expired one went along */
    assert_int_equal(ASK("providers.undrain", "name", "groq/llama"), ADMIN_NOT_FOUND);
    assert_int_equal(ASK("weights.unfreeze", "name", "chat"), ADMIN_OK);
    assert_int_equal(live()->override_count, 0);
}

static void blocks_survive_push_and_rollback(void **state)
{
    (void)state;
    push(1), push(2);
    assert_int_equal(ASK("block", "name", "openai"), ADMIN_INVALID); /* those who come after want to know why */
    says("--reason");
    assert_int_equal(ASK("block", "name", "openai", "reason", " "), ADMIN_INVALID);
    assert_int_equal(ASK("block", "name", "opnai", "reason", "x"), ADMIN_NOT_FOUND);
    says("did you mean 'openai'?");
    assert_int_equal(ASK("block", "name", "openai", "reason", "leaked a key"), ADMIN_OK);
    says("blocked until it is lifted; rollbacks do not lift it");
    assert_int_equal(ASK("block", "name", "groq/llama", "reason", "odd", "expires", "2h"), ADMIN_OK);
    assert_int_equal(ASK("providers.drain", "name", "openai", "reason", "y"), ADMIN_OK); /* beside it */
    assert_int_equal(ASK("rollback"), ADMIN_OK);
    push(3);
    assert_int_equal(live()->override_count, 3);
    assert_int_equal(live()->overrides[0].kind, OVERRIDE_BLOCK);
    assert_true(span_eq(live()->overrides[0].target, SPAN("openai")));
    assert_true(span_eq(live()->overrides[0].reason, SPAN("leaked a key")));
    assert_int_equal(ASK("status"), ADMIN_OK);
    assert_true(result_has("\"kind\":\"block\",\"target\":\"openai\",\"reason\":\"leaked a key\",\"by\":\"ann\""));
    assert_true(result_has("\"target\":\"groq/llama\""));
    now_ms += 7200001;
    assert_int_equal(ASK("providers.list"), ADMIN_OK);
    assert_false(result_has("\"target\":\"groq/llama\""));                  /* its time is over */
    assert_int_equal(ASK("providers.undrain", "name", "openai"), ADMIN_OK); /* lifts the drain only */
    assert_int_equal(live()->override_count, 1);
    assert_int_equal(ASK("unblock", "name", "openai"), ADMIN_OK);
    assert_int_equal(ASK("unblock", "name", "openai"), ADMIN_NOT_FOUND);
    assert_int_equal(live()->override_count, 0);
}

/* What a request says of its user is a claim: where the link knows the peer, its name counts. */
static void who_it_was(void **state)
{
    const struct ask known = { .role = ROLE_ADMIN, .uid = 1234, .name = "ben" };
    (void)state;
    push(1);
    assert_int_equal(ASK_AS(known, "block", "name", "openai", "reason", "x"), ADMIN_OK);
    assert_true(span_eq(live()->by, SPAN("ben")));
    assert_true(span_eq(live()->overrides[0].by, SPAN("ben")));
    assert_int_equal(ASK("audit.list", "limit", "1"), ADMIN_OK);
    assert_true(
        result_has("\"user\":\"ben\",\"uid\":1234,\"claimed\":\"ann\",\"role\":\"admin\",\"command\":\"block\""));
    assert_int_equal(ASK("unblock", "name", "openai"), ADMIN_OK);
    assert_int_equal(ASK("audit.list", "limit", "1"), ADMIN_OK);
    assert_true(result_has("\"user\":\"ann\",\"role\"")); /* nobody knows better */

    struct buf bytes = BUF_INIT(1u << 20);
    service_deny(&service, &(struct caller){ .uid = 4321, .name = SPAN("eve") }, &bytes);
    assert_int_equal(wire_decode_admin_reply(&store->arena, buf_span(&bytes), &reply), OK);
    assert_int_equal(reply->status, ADMIN_DENIED);
    says("eve (uid 4321) has no role");
    says("viewer");
    says("/nowhere/roles.yaml");
    buf_release(&bytes);
    service_deny(&service, &(struct caller){ .uid = CALLER_UID_UNKNOWN }, &bytes);
    assert_int_equal(wire_decode_admin_reply(&store->arena, buf_span(&bytes), &reply), OK);
    says("local users");
    buf_release(&bytes);
}

/* Sequences of the entries, and where the next page begins. */
static const char *page(void)
{
    struct json_index ix;
    char text[512];
    size_t len = 0;
    assert_int_equal(json_index(&store->arena, reply->result, &json_limits_default, &ix, NULL), OK);
    const uint32_t entries = json_get(&ix, 0, SPAN("entries"));
    text[0] = '\0';
    for (uint32_t t = json_first(&ix, entries); t != JSON_NONE; t = json_next(&ix, entries, t))
        len += (size_t)snprintf(text + len, sizeof(text) - len, SPAN_FMT " ",
                                SPAN_ARG(json_raw(&ix, json_get(&ix, t, SPAN("seq")))));
    snprintf(text + len, sizeof(text) - len, "next " SPAN_FMT " last " SPAN_FMT,
             SPAN_ARG(json_raw(&ix, json_get(&ix, 0, SPAN("next")))),
             SPAN_ARG(json_raw(&ix, json_get(&ix, 0, SPAN("last")))));
    return arena_printf(&store->arena, "%s", text);
}

static void audit_in_pages(void **state)
{
    const struct ask ben = { .role = ROLE_ADMIN, .uid = 7, .name = "ben" };
    const char *line = arena_printf(&store->arena, "%0*d", 200, 7);
    (void)state;
    push(1);                           /* 1 */
    for (unsigned i = 0; i < 3; i++) { /* 2 to 7 */
        assert_int_equal(ASK_AS(ben, "block", "name", "openai", "reason", "x"), ADMIN_OK);
        assert_int_equal(ASK("unblock", "name", "openai"), ADMIN_OK);
    }
    assert_int_equal(ASK("audit.list"), ADMIN_OK);
    assert_string_equal(page(), "1 2 3 4 5 6 7 next null last 7");
    assert_int_equal(ASK("audit.list", "limit", "2"), ADMIN_OK); /* the newest */
    assert_string_equal(page(), "6 7 next null last 7");
    assert_int_equal(ASK("audit.list", "limit", "2", "from", "1"), ADMIN_OK);
    assert_string_equal(page(), "1 2 next 3 last 7");
    assert_int_equal(ASK("audit.list", "limit", "9", "from", "3"), ADMIN_OK);
    assert_string_equal(page(), "3 4 5 6 7 next null last 7");
    assert_int_equal(ASK("audit.list", "from", "8"), ADMIN_OK);
    assert_string_equal(page(), "next null last 7");
    assert_int_equal(ASK("audit.list", "user", "ben"), ADMIN_OK);
    assert_string_equal(page(), "2 4 6 next null last 7");
    assert_int_equal(ASK("audit.list", "user", "b*", "limit", "2"), ADMIN_OK);
    assert_string_equal(page(), "4 6 next null last 7");
    assert_int_equal(ASK("audit.list", "command", "unblock", "from", "4", "limit", "1"), ADMIN_OK);
    assert_string_equal(page(), "5 next 7 last 7");
    assert_int_equal(ASK("audit.list", "command", "un*", "user", "ben"), ADMIN_OK);
    assert_string_equal(page(), "next null last 7");
    const char *since = arena_printf(&store->arena, "%lld", (long long)now_ms);
    assert_int_equal(ASK("unblock", "name", "openai"), ADMIN_NOT_FOUND); /* no line */
    assert_int_equal(ASK("block", "name", "openai", "reason", line), ADMIN_OK);
    assert_int_equal(ASK("audit.list", "since_ms", since), ADMIN_OK);
    assert_string_equal(page(), "8 next null last 8");
    assert_int_equal(ASK("audit.list", "limit", "0"), ADMIN_INVALID);
    assert_int_equal(ASK("audit.list", "limit", "100001"), ADMIN_INVALID);
    assert_int_equal(ASK("audit.list", "from", "x"), ADMIN_INVALID);
}

/* Lines that are longer than a page all together: none is lost, and each page fits. */
static unsigned happenings(void)
{
    struct json_index ix;
    assert_int_equal(json_index(&store->arena, reply->result, &json_limits_default, &ix, NULL), OK);
    return json_count(&ix, json_get(&ix, 0, SPAN("events")));
}

static const char *since(int64_t ms)
{
    return arena_printf(&store->arena, "%lld", (long long)ms);
}

static void what_happened(void **state)
{
    (void)state;
    assert_int_equal(journal_open(NULL, (struct journal **)(uintptr_t)&service.journal), OK);
    assert_int_equal(ASK("changes"), ADMIN_OK);
    assert_int_equal(happenings(), 0);
    assert_int_equal(push(1), ADMIN_OK);
    assert_int_equal(ASK("teams.apply", "bundle", directory("  hr: {routes: [chat]}\\n")), ADMIN_OK);
    assert_int_equal(ASK("keys.create", "team", "hr", "hash", hash_of("k"), "expires", "2h"), ADMIN_OK);
    assert_int_equal(ASK("providers.drain", "name", "openai", "reason", "rack \"9\"", "expires", "1h"), ADMIN_OK);
    event_tell(journal_sink((struct journal *)(uintptr_t)service.journal), T0 + 3,
               &(struct event){ .kind = "health", .where = SPAN("groq/llama"), .what = SPAN("is down") });
    assert_int_equal(ASK("changes", "since_ms", since(T0)), ADMIN_OK);
    assert_int_equal(happenings(), 5);
    assert_true(result_has("\"kind\":\"change\",\"where\":\"providers.drain\""));
    assert_true(result_has("\"why\":\"rack \\\"9\\\"\",\"by\":\"ann\""));
    assert_true(result_has("\"where\":\"groq/llama\",\"what\":\"is down\""));
    const size_t pushed = span_find(reply->result, SPAN("policy.push")),
                 down = span_find(reply->result, SPAN("is down"));
    assert_true(pushed < down); /* in order of time */
    /* Nothing that ends later has ended yet; then both have, also when another head has followed. */
    now_ms = T0 + 3 * 3600000;
    assert_int_equal(ASK("providers.drain", "name", "groq", "reason", "x"), ADMIN_OK);
    assert_int_equal(ASK("providers.undrain", "name", "groq"), ADMIN_OK);
    assert_int_equal(live()->override_count, 0);
    assert_int_equal(ASK("changes", "since_ms", since(T0 + 1800000)), ADMIN_OK);
    assert_int_equal(happenings(), 4);
    assert_true(result_has("\"kind\":\"expiry\",\"where\":\"openai\",\"what\":\"is free again: its drain expired\""));
    assert_true(result_has("expired: it is refused from now on"));
    assert_int_equal(ASK("changes", "since_ms", since(now_ms - 1)), ADMIN_OK);
    assert_int_equal(happenings(), 0);
    assert_int_equal(ASK("changes", "since_ms", "soon"), ADMIN_INVALID);
    journal_close((struct journal *)(uintptr_t)service.journal);
    service.journal = NULL;
}

/* Only the newest lines of a long log, and it says how many are left out. */
static void much_happened(void **state)
{
    (void)state;
    assert_int_equal(versions_begin(store->versions, true), OK);
    for (int64_t i = 0; i < 5010; i++) {
        const char *line =
            arena_printf(&store->arena, "{\"at_ms\":%lld,\"user\":\"ben\",\"command\":\"x\"}", (long long)(T0 + i));
        assert_int_equal(versions_audit_put(store->versions, span_cstr(line)), OK);
    }
    assert_int_equal(versions_commit(store->versions), OK);
    now_ms = T0 + 6000;
    assert_int_equal(ASK("changes", "since_ms", since(T0)), ADMIN_OK);
    assert_int_equal(happenings(), 5000);
    assert_true(result_has("\"left_out\":10,"));
    assert_int_equal(ASK("changes", "since_ms", since(T0 + 5000)), ADMIN_OK);
    assert_int_equal(happenings(), 10);
    assert_true(result_has("\"left_out\":0,"));
}

static void long_audit_lines(void **state)
{
    static char text[240u << 10];
    uint64_t from = 1, seen = 0, pages = 0;
    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    const char *line = arena_printf(&store->arena, "{\"at_ms\":1,\"text\":\"%s\"}", text);
    begin(store, true);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(versions_audit_put(store->versions, span_cstr(line)), OK);
    assert_int_equal(versions_commit(store->versions), OK);
    while (from) {
        struct json_index ix;
        assert_int_equal(
            ASK("audit.list", "limit", "100", "from", arena_printf(&store->arena, "%llu", (unsigned long long)from)),
            ADMIN_OK);
        assert_true(reply->result.len < (3u << 19));
        assert_int_equal(json_index(&store->arena, reply->result, &json_limits_default, &ix, NULL), OK);
        seen += ix.tokens[json_get(&ix, 0, SPAN("entries"))].count;
        if (json_u64(&ix, json_get(&ix, 0, SPAN("next")), &from) != OK)
            from = 0;
        pages++;
    }
    assert_int_equal(seen, 20);
    assert_int_equal(pages, 5);
}

static void backups(void **state)
{
    struct versions *copy;
    struct versions_numbers n;
    char to[96], command[160];
    (void)state;
    push(1);
    snprintf(to, sizeof(to), "%s-copy", store->dir);
    assert_int_equal(ASK("backup", "to", "relative"), ADMIN_INVALID);
    assert_int_equal(ASK("backup", "to", store->dir), ADMIN_CONFLICT);
    assert_int_equal(ASK("backup", "to", to), ADMIN_OK);
    push(2); /* the store goes on */
    assert_int_equal(versions_open(to, &copy), OK);
    assert_int_equal(versions_begin(copy, false), OK);
    assert_int_equal(versions_numbers(copy, &n), OK);
    assert_int_equal(n.version_last, 1);
    versions_close(copy);
    snprintf(command, sizeof(command), "rm -r %s", to);
    assert_int_equal(system(command), 0);
}

/* The disk says no at the commit: said so, nothing changed anywhere, and the same request can be sent again. */
static void commits_that_fail(void **state)
{
    (void)state;
    a_team();
    push(2);
    ASK("keys.create", "team", "research", "hash", hash_of("k1"));
    const char *id = id_in_result();
    assert_int_equal(ASK("prices.set", "name", "groq/llama", "input", "1", "output", "2"), ADMIN_OK);
    const struct {
        const char *words[10];
    } cases[] = {
        { { "policy.push", "bundle", policy(3) } },
        { { "rollback" } },
        { { "teams.apply", "bundle", directory("  hr: {routes: [chat]}\\n") } },
        { { "keys.create", "team", "hr", "hash", hash_of("k2") } },
        { { "keys.rotate", "id", id, "hash", hash_of("k3") } },
        { { "keys.revoke", "id", id } },
        { { "providers.drain", "name", "openai", "reason", "x" } },
        { { "prices.set", "name", "openai/gpt-4o", "input", "7", "output", "7" } },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char id_bytes[32];
        snprintf(id_bytes, sizeof(id_bytes), "failing-commit-%zu", i);
        const struct ask same = { .role = ROLE_ADMIN, .id = id_bytes };
        const struct versions_numbers before = numbers(store);
        const unsigned changed_before = changed;
        fault_arm(FAULT_COMMIT, 0, 1);
        assert_int_not_equal(ask_as(same, cases[i].words), ADMIN_OK);
        fault_disarm_all();
        const struct versions_numbers after = numbers(store);
        assert_memory_equal(&before, &after, sizeof(before));
        assert_int_equal(changed, changed_before);
        if (strcmp(cases[i].words[0], "prices.set") == 0) {
            assert_int_equal(ASK("prices.list"), ADMIN_OK);
            assert_false(result_has("\"input\":7"));
        }
        if (ask_as(same, cases[i].words) != ADMIN_OK)
            fail_msg("%s again: " SPAN_FMT, cases[i].words[0], SPAN_ARG(reply->message));
        assert_int_equal(numbers(store).audit_seq, before.audit_seq + 1);
        assert_int_equal(changed, changed_before + 1);
    }
}

/* ---- records ---- */

#define WHEN "{\"time\":\"2026-11-22T10:45:0"

static const char recorded[] = WHEN
    "0.000Z\",\"request_id\":\"r1\",\"team\":\"a\",\"model\":\"p/x\",\"outcome\":\"ok\",\"usage\":{\"input\":10,"
    "\"output\":5},\"cost_list_nano_usd\":70,\"cost_nano_usd\":60}\n" WHEN
    "1.000Z\",\"request_id\":\"r2\",\"team\":\"b\",\"model\":\"p/"
    "x\",\"outcome\":\"error\",\"cost_nano_usd\":100}\n" WHEN
    "2.000Z\",\"request_id\":\"r3\",\"team\":\"a\",\"model\":\"p/y\",\"outcome\":\"ok\",\"cost_nano_usd\":1}\n" WHEN
    "3.000Z\",\"request_id\":\"r4\",\"kind\":\"shadow\",\"of\":\"r1\",\"outcome\":\"ok\",\"cost_nano_usd\":7}\n" WHEN
    "4.000Z\",\"request_id\":\"r1\",\"kind\":\"feedback\",\"metric\":\"feedback\",\"score\":1}\n" WHEN
    "5.000Z\",\"request_id\":\"r5\",\"team\":\"r1\",\"outcome\":\"ok\"}\n";

static void records_are_found_and_added_up(void **state)
{
    (void)state;
    char dir[] = "/tmp/fl-service-records-XXXXXX", command[64];
    struct recordstore *records;
    assert_int_equal(ASK("costs"), ADMIN_UNAVAILABLE);
    assert_int_equal(ASK("records.find", "id", "r1"), ADMIN_UNAVAILABLE);
    assert_non_null(mkdtemp(dir));
    assert_int_equal(recordstore_open(dir, 0, &records), OK);
    assert_int_equal(
        recordstore_append(records, &(struct recordstore_batch){ .node = SPAN("n"),
                                                                 .segment = SPAN("records-20261122T104500.123Z.jsonl"),
                                                                 .to = sizeof(recorded) - 1,
                                                                 .lines = span_cstr(recorded) }),
        OK);
    service.records = records;
    assert_int_equal(ASK("records.find", "id", "r1"), ADMIN_OK); /* newest first; a team of that name is no request */
    const size_t vote = span_find(reply->result, SPAN("\"metric\"")), shadow = span_find(reply->result, SPAN("\"r4\"")),
                 request = span_find(reply->result, SPAN("\"usage\""));
    assert_true(vote < shadow && shadow < request && request != SIZE_MAX);
    assert_false(result_has("r5"));
    assert_int_equal(ASK("records.find", "id", "r9"), ADMIN_NOT_FOUND);
    says("no record of 'r9'");
    assert_int_equal(ASK("records.find", "id", "r\"1"), ADMIN_INVALID);
    assert_int_equal(ASK("costs", "by", "team,model"), ADMIN_OK);
    assert_true(result_has("\"rows\":[{\"team\":\"b\",\"model\":\"p/x\",\"requests\":1,\"errors\":1,"));
    assert_true(result_has("{\"team\":\"a\",\"model\":\"p/x\",\"requests\":1,\"errors\":0,\"estimated\":0,"
                           "\"input_tokens\":10,\"cached_tokens\":0,\"output_tokens\":5,\"list_nano_usd\":70,"
                           "\"charged_nano_usd\":60}"));
    assert_true(result_has("\"shadow\":{\"requests\":1,") && !result_has("\"rest\""));
    assert_int_equal(ASK("costs", "by", "day,policy"), ADMIN_OK);
    assert_true(result_has("{\"day\":\"2026-11-22\",\"policy\":\"v0\",\"requests\":4,"));
    assert_int_equal(ASK("costs", "since_ms", "1795344302000"), ADMIN_OK); /* 10:45:02 */
    assert_true(result_has("{\"team\":\"a\",\"requests\":1,") && !result_has("\"b\""));
    assert_int_equal(ASK("costs", "by", "team,team"), ADMIN_INVALID);
    assert_int_equal(ASK("costs", "by", "tea"), ADMIN_INVALID);
    says("--by: 'tea' is none of team, model");
    assert_int_equal(ASK("costs", "since_ms", "today"), ADMIN_INVALID);
    recordstore_close(records);
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(pushing),
        TEST(bad_policies),
        TEST(rolling_back),
        TEST(dry_runs_change_nothing),
        TEST(a_request_is_executed_once),
        TEST(roles),
        TEST(teams),
        TEST(keys),
        TEST(keys_of_routes),
        TEST(no_rollback_restores_a_key),
        TEST(drains_survive_rollback_and_expire),
        TEST(blocks_survive_push_and_rollback),
        TEST(who_it_was),
        TEST(audit_in_pages),
        TEST(long_audit_lines),
        TEST(what_happened),
        TEST(much_happened),
        TEST(backups),
        TEST(commits_that_fail),
        TEST(records_are_found_and_added_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
