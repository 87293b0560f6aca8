#include "dataplane/node/decide_now.h"
#include "common/clock.h"
#include "common/file.h"
#include "dataplane/route/arms.h"
#include "dataplane/route/ask.h"
#include "dataplane/route/explain.h"
#include "dataplane/worker/live.h"
#include "dataplane/worker/loader.h"
#include "proto/head.h"
#include "proto/home.h"
#include "proto/wire.h"
#include <stdarg.h>
#include <sys/resource.h>

#define ARENA_BYTES      ((size_t)512 << 20) /* the request's index, and a plan */
#define HEADERS_MOST     100u                /* as many as a request may have */
#define CPU_SECONDS      20u                 /* should whoever started it be gone */
#define BYTES_PER_TOKEN  4u                  /* as usage_tokens_of_bytes reckons */
#define WHY_BYTES        512u
#define KEY_RECORDS_NOTE "`fairlead keys list` shows them"

static const struct json_limits in_limits = { .bytes_max = DECIDE_NOW_IN_BYTES,
                                              .depth_max = 200,
                                              .tokens_max = 8u << 20 };

struct job {
    const struct node_config *config;
    struct board *board;
    struct loader loader;
    struct arena arena;
    struct json_index in;
    int64_t wall_ms;
    struct header_pair headers[HEADERS_MOST];
    size_t header_count;
    struct span_list unresolved;
    bool node_said; /* what is unresolved */
    struct key_record *key;
    struct auth_principal principal;
    struct ask ask;
    struct table *table; /* decides; a reference */
    const struct arm_view *arm;
    const char *arm_why;
    struct arm_choice choice;
    char request_id[32]; /* what an assignment by request would go by */
    struct resolved target;
    const char *refused; /* the error's word; NULL: a plan could be made */
    char *message;
    char why[WHY_BYTES];
};

static enum err fail(struct job *job, enum err err, const char *fmt, ...) PRINTF_LIKE(3, 4);
static enum err fail(struct job *job, enum err err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start stands above; the analyzer loses it */
    (void)vsnprintf(job->why, sizeof(job->why), fmt, args);
    va_end(args);
    return err;
}

/* ---- what came in ---- */

/* "" when absent or no text. */
static struct span text_member(struct job *job, uint32_t object, const char *name)
{
    const uint32_t token = json_get(&job->in, object, span_cstr(name));
    struct span text = SPAN("");
    if (token != JSON_NONE && json_kind(&job->in, token) == JSON_STRING &&
        json_string(&job->arena, &job->in, token, &text))
        return SPAN("");
    return text;
}

static uint64_t number_member(const struct job *job, uint32_t object, const char *name)
{
    const uint32_t token = json_get(&job->in, object, span_cstr(name));
    uint64_t number = 0;
    return token != JSON_NONE && json_u64(&job->in, token, &number) == OK ? number : 0;
}

static bool true_member(const struct job *job, uint32_t object, const char *name)
{
    const uint32_t token = json_get(&job->in, object, span_cstr(name));
    return token != JSON_NONE && json_kind(&job->in, token) == JSON_TRUE;
}

static enum err read_endpoint(struct job *job, enum endpoint *ret)
{
    static const struct {
        const char *name;
        enum endpoint endpoint;
    } names[] = { { "", ENDPOINT_CHAT },
                  { "chat", ENDPOINT_CHAT },
                  { "completions", ENDPOINT_COMPLETIONS },
                  { "embeddings", ENDPOINT_EMBEDDINGS } };
    const struct span name = text_member(job, 0, "endpoint");
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (span_eq(name, span_cstr(names[i].name))) {
            *ret = names[i].endpoint;
            return OK;
        }
    return fail(job, ERR_INVALID, "no endpoint '" SPAN_FMT "': chat, completions or embeddings",
                SPAN_ARG(span_head(name, 40)));
}

/* Of a past request only this is known; it decides the same. */
static void ask_of_features(struct job *job, uint32_t f)
{
    const uint64_t choices = number_member(job, f, "choices"), tokens = number_member(job, f, "input_tokens");
    job->ask.stream = true_member(job, f, "stream");
    job->ask.has_tools = true_member(job, f, "tools");
    job->ask.has_images = true_member(job, f, "images");
    job->ask.has_audio = true_member(job, f, "audio");
    job->ask.wants_json = true_member(job, f, "json");
    job->ask.max_output_tokens = number_member(job, f, "max_output");
    job->ask.choices = choices > 0 && choices < UINT32_MAX ? (uint32_t)choices : 1;
    job->ask.input_bytes = (tokens < UINT32_MAX ? tokens : UINT32_MAX) * BYTES_PER_TOKEN;
}

static enum err read_ask(struct job *job)
{
    const uint32_t request = json_get(&job->in, 0, SPAN("request"));
    const uint32_t features = json_get(&job->in, 0, SPAN("features"));
    struct ask_error error = { .param = NULL };
    enum endpoint endpoint = ENDPOINT_CHAT;
    enum err err = read_endpoint(job, &endpoint);
    if (err)
        return err;
    if (request == JSON_NONE && features == JSON_NONE)
        return fail(job, ERR_INVALID, "neither a request nor its features were given");
    if (request != JSON_NONE)
        err = ask_read(&job->arena, endpoint, json_raw(&job->in, request), &in_limits, &job->ask, &error);
    if (err)
        return fail(job, ERR_INVALID, "the request: %s", err == ERR_NOMEM ? "out of memory" : error.message);
    if (request == JSON_NONE)
        ask_of_features(job, features);
    else
        job->ask.user = ask_user(&job->arena, &job->ask);
    job->ask.endpoint = endpoint;
    const struct span asked = text_member(job, 0, "asked"), user = text_member(job, 0, "user");
    if (!span_empty(asked))
        job->ask.model = asked;
    if (!span_empty(user))
        job->ask.user = user;
    return span_empty(job->ask.model) ? fail(job, ERR_INVALID, "no model is asked for") : OK;
}

static enum err read_headers(struct job *job)
{
    const uint32_t map = json_get(&job->in, 0, SPAN("headers"));
    if (map == JSON_NONE)
        return OK;
    for (uint32_t t = json_first(&job->in, map); t != JSON_NONE; t = json_next(&job->in, map, t)) {
        struct header_pair *pair = &job->headers[job->header_count++];
        if (json_kind(&job->in, map) != JSON_OBJECT || job->header_count == HEADERS_MOST)
            return fail(job, ERR_INVALID, "the headers are no map of less than %u", HEADERS_MOST);
        enum err err = json_string(&job->arena, &job->in, t, &pair->name);
        t = json_next(&job->in, map, t);
        if (!err)
            err = json_string(&job->arena, &job->in, t, &pair->value);
        if (err)
            return fail(job, ERR_INVALID, "a header is no text");
    }
    return OK;
}

static enum err read_unresolved(struct job *job)
{
    const uint32_t list = json_get(&job->in, 0, SPAN("unresolved"));
    if (list == JSON_NONE || json_kind(&job->in, list) != JSON_ARRAY)
        return OK;
    struct span *names = ARENA_ARRAY(&job->arena, json_count(&job->in, list) + 1, struct span);
    if (!names)
        return fail(job, ERR_NOMEM, "out of memory");
    for (uint32_t t = json_first(&job->in, list); t != JSON_NONE; t = json_next(&job->in, list, t))
        if (json_string(&job->arena, &job->in, t, &names[job->unresolved.count]) == OK)
            job->unresolved.count++;
    job->unresolved.items = names;
    job->node_said = true;
    return OK;
}

/* ---- who asks ---- */

static enum err key_by_id(struct job *job, struct span id)
{
    uint64_t txn_id;
    enum err err = tablestore_begin(job->loader.store, &txn_id);
    if (err)
        return fail(job, err, "the node's store cannot be read: %s", err_name(err));
    err = tablestore_key_named(job->loader.store, &job->arena, id, &job->key);
    tablestore_end(job->loader.store);
    if (err == ERR_NOT_FOUND)
        return fail(job, err, "this node knows no key '" SPAN_FMT "'; " KEY_RECORDS_NOTE, SPAN_ARG(span_head(id, 60)));
    return err ? fail(job, err, "the node's keys cannot be read: %s", err_name(err)) : OK;
}

static enum err find_key(struct job *job)
{
    const struct span secret = text_member(job, 0, "key"), id = text_member(job, 0, "key_id");
    const char *why = NULL;
    enum err err;
    if (!span_empty(secret)) {
        const struct sha256 hash = sha256_of(secret);
        err = loader_key(&job->loader, &job->arena, &hash, &job->key);
        if (err)
            return fail(job, err, "this node knows no such key; " KEY_RECORDS_NOTE);
    } else if (span_starts(id, SPAN(AUTH_CERTIFICATE_PREFIX))) {
        return fail(job, ERR_INVALID,
                    "clients with a certificate and no key cannot be asked for; name a key of their team");
    } else {
        err = key_by_id(job, id);
        if (err)
            return err;
    }
    job->principal = (struct auth_principal){ .key = job->key, .team = table_team(job->table, job->key->team) };
    err = auth_judge(job->key, job->principal.team, job->wall_ms, &why);
    return err ? fail(job, ERR_UNAUTHORIZED, "key " SPAN_FMT ": %s", SPAN_ARG(job->key->id), why) : OK;
}

/* ---- by which policy ---- */

/* A policy that no arm obeys, but that is still here: one arm of its own, with the present evidence and overrides. */
static enum err table_of_artifact(struct job *job, struct compiled *compiled, struct span evidence)
{
    const struct head *live = job->table->head;
    struct arm arm = { .name = SPAN("past"), .policy_version = compiled->artifact->policy_version };
    struct head head = { .epoch = live->epoch,
                         .generation = live->generation,
                         .made_at_ms = live->made_at_ms,
                         .arms = &arm,
                         .arm_count = 1,
                         .overrides = live->overrides,
                         .override_count = live->override_count };
    struct buf bytes = BUF_INIT(HEAD_BYTES_MAX);
    struct table *table = NULL;
    arm.artifact = compiled->artifact->hash;
    enum err err = wire_encode_head(&head, &bytes);
    if (!err)
        err =
            table_new(buf_span(&bytes), evidence, &compiled, 1, job->table->teams, &job->table->version, &table, NULL);
    buf_release(&bytes);
    if (err)
        return err;
    table_unref(job->table);
    job->table = table;
    job->arm = &table->arms[0];
    return OK;
}

/* Within a read transaction. */
static enum err find_artifact(struct job *job, uint64_t version)
{
    struct tablestore *store = job->loader.store;
    struct span evidence = SPAN("");
    struct sha256 *hashes;
    uint32_t count;
    enum err err = tablestore_artifacts(store, &job->arena, &hashes, &count);
    if (!err && tablestore_object(store, OBJECT_EVIDENCE, NULL, &evidence))
        evidence = SPAN("");
    for (uint32_t i = 0; !err && i < count; i++) {
        struct compiled *compiled;
        struct span bytes;
        if (tablestore_object(store, OBJECT_ARTIFACT, &hashes[i], &bytes) ||
            compiled_new(bytes, &job->loader.labels, &compiled, NULL))
            continue;
        const bool found = compiled->artifact->policy_version == version;
        if (found)
            err = table_of_artifact(job, compiled, evidence);
        compiled_unref(compiled);
        if (found)
            return err;
    }
    return err ? err : ERR_NOT_FOUND;
}

static enum err choose_version(struct job *job, uint64_t version)
{
    uint64_t txn_id;
    job->arm_why = "past";
    for (uint32_t i = 0; i < job->table->head->arm_count; i++)
        if (job->table->head->arms[i].policy_version == version) {
            job->arm = &job->table->arms[i];
            return OK;
        }
    enum err err = tablestore_begin(job->loader.store, &txn_id);
    if (!err) {
        err = find_artifact(job, version);
        tablestore_end(job->loader.store);
    }
    if (err == ERR_NOT_FOUND)
        return fail(job, err, "this node no longer holds policy v%llu", (unsigned long long)version);
    return err ? fail(job, err, "policy v%llu cannot be read: %s", (unsigned long long)version, err_name(err)) : OK;
}

/* As exchange does: the stable arm says which route is meant; a name it does not know stands for itself. */
static enum err choose_arm(struct job *job)
{
    const struct head *head = job->table->head;
    const uint64_t version = number_member(job, 0, "policy_version");
    const struct span route = resolve_route_meant(&job->table->arms[0], job->ask.model);
    struct span wish = SPAN("");
    if (version)
        return choose_version(job, version);
    const struct arm_units units = { .key = job->key->id,
                                     .user = job->ask.user,
                                     .headers = job->headers,
                                     .header_count = job->header_count,
                                     .request = span_cstr(random_id("req_", 24, job->request_id)) };
    for (size_t i = 0; i < job->header_count; i++)
        if (span_eq_nocase(job->headers[i].name, SPAN(ARMS_HEADER)))
            wish = job->headers[i].value;
    if (!span_empty(wish) && !(job->principal.team->team->may & TEAM_MAY_CHOOSE_ARM))
        return fail(job, ERR_UNAUTHORIZED,
                    "team " SPAN_FMT " may not choose an arm (may: [choose_arm] in " SPAN_FMT ")",
                    SPAN_ARG(job->key->team), SPAN_ARG(job->principal.team->team->where));
    const uint32_t forced = span_empty(wish) ? 0 : head_arm(head, wish);
    if (forced == head->arm_count)
        return fail(job, ERR_NOT_FOUND, "there is no arm '" SPAN_FMT "' now", SPAN_ARG(span_head(wish, 60)));
    job->choice = span_empty(wish) ? arms_choose(head, route, &units) : arms_force(head, route, &units, forced);
    job->arm = &job->table->arms[job->choice.arm];
    job->arm_why = arm_why_name(job->choice.why);
    return OK;
}

/* ---- the answer ---- */

static void put_key(struct json_writer *w, const struct job *job)
{
    json_key(w, SPAN("key"));
    json_object_open(w);
    json_member_string(w, "id", job->key->id);
    json_member_string(w, "team", job->key->team);
    json_member_string(w, "team_where", job->principal.team->team->where);
    json_object_close(w);
}

static void put_arm(struct json_writer *w, const struct job *job)
{
    const struct arm *arm = job->arm->arm;
    json_key(w, SPAN("arm"));
    json_object_open(w);
    json_member_string(w, "name", arm->name);
    json_member_u64(w, "policy_version", arm->policy_version);
    json_member_cstr(w, "why", job->arm_why);
    const struct assignment *a = job->choice.assignment;
    json_member_string(w, "assignment", a ? a->id : SPAN(""));
    json_member_cstr(w, "unit_kind", a ? unit_kind_name(job->choice.unit_kind) : "");
    json_member_u64(w, "bucket", job->choice.bucket);
    json_object_close(w);
}

/* How the name led to its target. */
static void put_asked(struct json_writer *w, const struct job *job)
{
    static const char *const wishes[] = { "", "floor", "nitro" };
    struct span name = job->ask.model;
    const char *wish = wishes[job->target.wish];
    json_member_string(w, "asked", name);
    json_member_cstr(w, "suffix", wish);
    if (*wish)
        name = span_head(name, name.len - strlen(wish) - 1);
    const struct alias *alias = strmap_get(&job->arm->compiled->aliases, name);
    json_member_string(w, "alias", alias ? alias->name : SPAN(""));
}

static void put_ask(struct json_writer *w, const struct ask *ask)
{
    static const char *const endpoints[] = { "none", "chat", "completions", "embeddings", "models", "model" };
    json_key(w, SPAN("ask"));
    json_object_open(w);
    json_member_cstr(w, "endpoint", endpoints[ask->endpoint]);
    json_member_bool(w, "stream", ask->stream);
    json_member_bool(w, "tools", ask->has_tools);
    json_member_bool(w, "images", ask->has_images);
    json_member_bool(w, "audio", ask->has_audio);
    json_member_bool(w, "json", ask->wants_json);
    json_member_u64(w, "input_tokens", (ask->input_bytes + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN);
    json_member_u64(w, "max_output", ask->max_output_tokens);
    json_member_u64(w, "choices", ask->choices);
    json_member_string(w, "user", ask->user);
    json_object_close(w);
}

static void put_refused(struct json_writer *w, const struct job *job)
{
    json_key(w, SPAN("refused"));
    if (!job->refused) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_cstr(w, "error", job->refused);
    json_member_cstr(w, "message", job->message);
    json_object_close(w);
}

static void put_head(struct json_writer *w, const struct job *job)
{
    json_member_cstr(w, "node", job->config->name);
    json_member_i64(w, "at_ms", job->wall_ms);
    json_member_u64(w, "epoch", job->table->version.epoch);
    json_member_u64(w, "generation", job->table->version.generation);
    json_member_bool(w, "node_running", job->node_said);
    put_key(w, job);
    put_arm(w, job);
    put_asked(w, job);
    put_ask(w, &job->ask);
}

/* The plan, its exact probabilities and everything that was weighed. */
static enum err decide(struct job *job, struct json_writer *w)
{
    struct live live = { .board = job->board,
                         .compiled = job->arm->compiled,
                         .credentials = job->config->credentials,
                         .unresolved = job->node_said ? &job->unresolved : NULL };
    const struct select_input input = { .arm = job->arm,
                                        .target = job->target,
                                        .ask = &job->ask,
                                        .team_require = &job->principal.team->team->require,
                                        .evidence_valid = table_evidence_valid(job->table, job->wall_ms),
                                        .wall_ms = job->wall_ms,
                                        .now_ms = clock_ms(),
                                        .source = { .live = live_read, .user = &live } };
    struct plan plan;
    struct distribution first;
    struct prng prng;
    random_bytes(&prng, sizeof(prng));
    enum err err = select_distribution(&job->arena, &input, &first);
    if (err && err != ERR_NO_CANDIDATE)
        return err;
    err = select_plan(&job->arena, &input, &prng, &plan);
    if (err && err != ERR_NO_CANDIDATE)
        return err;
    if (err) {
        job->refused = "no_candidate";
        job->message = plan_explain(&job->arena, &input, &plan);
    }
    put_head(w, job);
    explain_members(w,
                    &(struct explain_input){ .table = job->table,
                                             .select = &input,
                                             .plan = &plan,
                                             .first_ppb = first.all_count == plan.all_count ? first.first_ppb : NULL });
    put_refused(w, job);
    return OK;
}

static enum err explain(struct job *job, struct buf *out)
{
    struct json_writer w;
    const size_t before = out->len;
    enum err err = OK;
    json_writer_init(&w, out);
    json_object_open(&w);
    if (resolve_name(job->arm, &job->principal, job->ask.model, &job->target)) {
        job->refused = "model_not_found";
        job->message = resolve_not_found_message(&job->arena, job->arm, &job->principal, job->ask.model);
        put_head(&w, job);
        put_refused(&w, job);
    } else {
        err = decide(job, &w);
    }
    json_object_close(&w);
    if (!err)
        err = json_writer_end(&w);
    if (err)
        buf_truncate(out, before);
    return err ? fail(job, err, "the explanation could not be made: %s", err_name(err)) : OK;
}

static void ignore_serving(UNUSED void *user, UNUSED const struct table_version *version)
{
}

static void ignore_bad(UNUSED void *user, UNUSED const struct table_version *version, UNUSED const char *why)
{
}

static enum err run(struct job *job, const char *store_path, struct span in, struct buf *out)
{
    const struct loader_events events = { .serving = ignore_serving, .bad = ignore_bad };
    enum err err = json_index(&job->arena, in, &in_limits, &job->in, NULL);
    if (err)
        return fail(job, err, "what came on standard input is not understood: %s", err_name(err));
    err = read_ask(job);
    if (!err)
        err = read_headers(job);
    if (!err)
        err = read_unresolved(job);
    if (err)
        return err;
    err = loader_init(&job->loader, store_path, job->board, &events);
    if (err)
        return fail(job, err, "out of memory");
    loader_refresh(&job->loader);
    if (!job->loader.table || job->loader.table->head->arm_count == 0)
        return fail(job, ERR_AGAIN, "this node has no policy yet");
    job->table = table_ref(job->loader.table);
    err = find_key(job);
    if (!err)
        err = choose_arm(job);
    return err ? err : explain(job, out);
}

enum err decide_now(const struct node_config *config, struct board *board, const char *store_path, struct span in,
                    struct buf *out, const char **ret_why)
{
    static struct job job; /* its texts live until the next call */
    job = (struct job){ .config = config, .board = board, .wall_ms = clock_wall_ms() };
    arena_init(&job.arena, ARENA_BYTES);
    const enum err err = run(&job, store_path, in, out);
    arena_release(&job.arena); /* a key's record is the loader's */
    table_unref(job.table);
    if (job.loader.store_path)
        loader_release(&job.loader);
    *ret_why = job.why;
    return err;
}

static int status_of(enum err err)
{
    return err == ERR_NOT_FOUND ? 3 : err == ERR_UNAUTHORIZED ? 5 : err == ERR_AGAIN ? 6 : 1;
}

int decide_now_main(const struct node_config *config)
{
    const struct rlimit cpu = { .rlim_cur = CPU_SECONDS, .rlim_max = CPU_SECONDS };
    const struct rlimit core = { .rlim_cur = 0, .rlim_max = 0 }; /* a key is in this process */
    struct buf in = BUF_INIT(DECIDE_NOW_IN_BYTES), out = BUF_INIT(DECIDE_NOW_OUT_BYTES);
    struct board *board = NULL;
    const char *why = "out of memory";
    char *store = node_config_path(config, HOME_NODE_STORE), *board_path = node_config_board_path(config);
    (void)setrlimit(RLIMIT_CPU, &cpu);
    (void)setrlimit(RLIMIT_CORE, &core);
    enum err err = store && board_path ? file_read("-", DECIDE_NOW_IN_BYTES, &in) : ERR_NOMEM;
    if (!err) {
        err = board_look(board_path, &board);
        if (err)
            why = err == ERR_UNSUPPORTED ? "the node here is of another version" : "no node runs in this home";
        err = err ? ERR_AGAIN : OK;
    }
    if (!err)
        err = decide_now(config, board, store, buf_span(&in), &out, &why);
    if (err)
        fprintf(stderr, "%s\n", why);
    else
        (void)fwrite(buf_span(&out).ptr, 1, out.len, stdout);
    if (in.data)
        explicit_bzero(in.data, in.cap);
    board_close(board);
    free(store);
    free(board_path);
    buf_release(&in);
    buf_release(&out);
    return err ? status_of(err) : 0;
}
