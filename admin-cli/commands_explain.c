/* explain: what would be decided for a request now, and why; or what was decided for one that has its record. The
 * deciding is done by this machine's node's own program (fairlead-dataplane --explain), so that no second opinion can
 * differ from the workers'. */
#include "admin-cli/cli.h"
#include "common/file.h"
#include "common/units.h"
#include "proto/home.h"
#include <errno.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define REQUEST_BYTES_MAX (32u << 20) /* as the node takes */
#define INPUT_BYTES_MAX   (64u << 20)
#define OUTPUT_BYTES_MAX  (32u << 20)
#define STATUS_BYTES_MAX  (512u << 10)
#define KEY_BYTES_MAX     4096u /* of what stands on standard input */
#define KEY_PREFIX        "fl-"

static const struct json_limits output_limits = { .bytes_max = OUTPUT_BYTES_MAX,
                                                  .depth_max = 32,
                                                  .tokens_max = 8u << 20 };

static const char *cell(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path)
{
    const struct column column = { "", path, COLUMN_TEXT };
    return render_cell(cli, ix, object, &column);
}

static bool is_set(const char *cell)
{
    return strcmp(cell, "-") != 0;
}

/* ---- what is asked of the node's program ---- */

/* What the running node says it lacks: its environment is not ours. Nothing when none answers. */
static void put_unresolved(struct cli *cli, struct json_writer *w)
{
    struct buf status = BUF_INIT(STATUS_BYTES_MAX);
    struct json_index ix;
    if (node_status(cli, &status) == OK &&
        json_index(&cli->arena, buf_span(&status), &json_limits_default, &ix, NULL) == OK) {
        const uint32_t list = json_get(&ix, 0, SPAN("unresolved_credentials"));
        if (list != JSON_NONE) {
            json_key(w, SPAN("unresolved"));
            json_put_raw(w, json_raw(&ix, list));
        }
    }
    buf_release(&status);
}

static int put_key(struct cli *cli, struct json_writer *w)
{
    const char *key = opts_text(&cli->given, "key", NULL);
    struct buf text = BUF_INIT(KEY_BYTES_MAX);
    if (!key)
        return cli_fail(cli, EXIT_USAGE,
                        "say who asks: --key KEY_ID, --key KEY, or --key - to read it from standard input");
    struct span name = span_cstr(key);
    if (strcmp(key, "-") == 0) {
        if (file_read("-", KEY_BYTES_MAX, &text) != OK)
            return cli_fail(cli, EXIT_REFUSED, "standard input holds no key");
        name = span_trim(arena_dup(&cli->arena, span_head(buf_span(&text), span_find_byte(buf_span(&text), '\n'))));
    }
    json_member_string(w, span_starts(name, SPAN(KEY_PREFIX)) ? "key" : "key_id", name);
    buf_release(&text);
    return EXIT_GOOD;
}

static int put_headers(struct cli *cli, struct json_writer *w)
{
    json_key(w, SPAN("headers"));
    json_object_open(w);
    for (unsigned i = 0; i < cli->given.given_count; i++) {
        if (strcmp(cli->given.given[i].opt->name, "header") != 0)
            continue;
        struct span value = span_cstr(cli->given.given[i].value), name;
        if (span_find_byte(value, ':') == SIZE_MAX || !span_split(&value, ':', &name) || span_empty(name))
            return cli_fail(cli, EXIT_USAGE, "--header takes name:value");
        json_key(w, name);
        json_put_string(w, span_trim(value));
    }
    json_object_close(w);
    return EXIT_GOOD;
}

/* The least that each endpoint takes; the text is short, as estimates grow with it. */
static enum err smallest_request(const char *endpoint, struct span model, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_string(&w, "model", model);
    if (strcmp(endpoint, "completions") == 0) {
        json_member_cstr(&w, "prompt", "");
    } else if (strcmp(endpoint, "embeddings") == 0) {
        json_member_cstr(&w, "input", "");
    } else {
        json_key(&w, SPAN("messages"));
        json_put_raw(&w, SPAN("[{\"role\":\"user\",\"content\":\"\"}]"));
    }
    json_object_close(&w);
    return json_writer_end(&w);
}

static int put_request(struct cli *cli, struct json_writer *w)
{
    const char *file = opts_text(&cli->given, "file", NULL), *model = opts_text(&cli->given, "model", NULL);
    const char *endpoint = opts_text(&cli->given, "endpoint", "chat");
    struct buf body = BUF_INIT(REQUEST_BYTES_MAX);
    struct json_index ix;
    struct json_error where;
    int code = EXIT_GOOD;
    if (!file && !model)
        return cli_fail(cli, EXIT_USAGE, "say what is asked for: --model NAME, or -f request.json");
    const enum err err =
        file ? file_read(file, REQUEST_BYTES_MAX, &body) : smallest_request(endpoint, span_cstr(model), &body);
    if (err)
        code = cli_fail(cli, EXIT_REFUSED, "%s cannot be read: %s", file ? file : "the request", err_name(err));
    else if (json_index(&cli->arena, buf_span(&body), &output_limits, &ix, &where))
        code = cli_fail(cli, EXIT_REFUSED, "%s:%u:%u: %s", file, where.line, where.column,
                        where.message ? where.message : "too large");
    if (code == EXIT_GOOD) {
        json_key(w, SPAN("request"));
        json_put_raw(w, buf_span(&body));
        json_member_cstr(w, "endpoint", endpoint);
        if (model)
            json_member_cstr(w, "asked", model);
    }
    buf_release(&body);
    return code;
}

static int input_of_options(struct cli *cli, struct buf *out)
{
    const char *user = opts_text(&cli->given, "user", NULL), *policy = opts_text(&cli->given, "policy", NULL);
    struct json_writer w;
    uint64_t version = 0;
    if (policy && (span_to_u64(span_cstr(policy + (*policy == 'v')), &version) || version == 0))
        return cli_fail(cli, EXIT_USAGE, "--policy takes a version's number");
    json_writer_init(&w, out);
    json_object_open(&w);
    int code = put_key(cli, &w);
    if (code == EXIT_GOOD)
        code = put_request(cli, &w);
    if (code == EXIT_GOOD)
        code = put_headers(cli, &w);
    if (code != EXIT_GOOD)
        return code;
    if (user)
        json_member_cstr(&w, "user", user);
    if (version)
        json_member_u64(&w, "policy_version", version);
    put_unresolved(cli, &w);
    json_object_close(&w);
    return json_writer_end(&w) == OK ? EXIT_GOOD : cli_fail(cli, EXIT_FAILED, "the request is too large");
}

/* ---- the node's program ---- */

/* A file of memory: the key in it must stand on no disk and in no list of processes. */
static int memory_file(struct span bytes)
{
    const int fd = memfd_create("fairlead-explain", MFD_CLOEXEC);
    size_t at = 0;
    while (fd >= 0 && at < bytes.len) {
        const ssize_t n = write(fd, bytes.ptr + at, bytes.len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            close(fd);
            return -1;
        }
        at += (size_t)n;
    }
    if (fd >= 0)
        (void)lseek(fd, 0, SEEK_SET);
    return fd;
}

static int read_whole(int fd, struct buf *out)
{
    for (;;) {
        char *at;
        if (buf_reserve(out, 65536, &at) != OK)
            return -1;
        const ssize_t n = read(fd, at, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        buf_commit(out, (size_t)n);
    }
}

static int run_program(char *const *argv, int in, struct buf *out, int *ret_status)
{
    posix_spawn_file_actions_t actions;
    int ends[2];
    pid_t pid = 0;
    if (pipe(ends) != 0)
        return errno;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    const int rc = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    const int got = rc == 0 ? read_whole(ends[0], out) : 0;
    close(ends[0]);
    if (rc == 0)
        waitpid(pid, ret_status, 0);
    return rc ? rc : got < 0 ? EIO : 0;
}

/* Its exit status is one of ours; what is wrong it has said on standard error. */
static int decide(struct cli *cli, struct span input, struct buf *out)
{
    char *program = cli_program("fairlead-dataplane"), *copy = file_join(cli->home, HOME_NODE_COPY);
    const bool running = copy && access(copy, R_OK) == 0;
    char *argv[] = { program,
                     (char *)"--explain",
                     (char *)"--log-level",
                     (char *)"error",
                     (char *)"--home",
                     cli->home,
                     running ? (char *)"--config-copy" : NULL,
                     running ? copy : NULL,
                     NULL };
    int status = 0;
    const int in = memory_file(input);
    const int rc = !program || in < 0 ? ENOMEM : run_program(argv, in, out, &status);
    if (in >= 0)
        close(in);
    free(program);
    free(copy);
    if (rc)
        return cli_fail(cli, EXIT_FAILED, "fairlead-dataplane cannot be run: %s", strerror(rc));
    if (!WIFEXITED(status))
        return cli_fail(cli, EXIT_FAILED, "fairlead-dataplane --explain was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* ---- the control plane's part: how scores came about ---- */

/* The rows of weights.show that are of this decision's route and policy; "null" when nobody answers. */
static void append_scores(struct cli *cli, const struct json_index *ix, struct json_writer *w)
{
    const struct call call = { .command = "weights.show" };
    const struct admin_reply *reply = NULL;
    const bool quiet = cli->quiet;
    struct json_index weights;
    json_key(w, SPAN("scores"));
    cli->quiet = true;
    const int code = call_ask(cli, &call, &reply, &weights);
    cli->quiet = quiet;
    if (code != EXIT_GOOD || json_kind(&weights, 0) != JSON_ARRAY) {
        json_put_null(w);
        return;
    }
    const char *route = cell(cli, ix, 0, "route");
    const uint64_t version = render_u64(ix, 0, "arm.policy_version");
    json_array_open(w);
    for (uint32_t t = json_first(&weights, 0); t != JSON_NONE; t = json_next(&weights, 0, t))
        if (render_u64(&weights, t, "policy_version") == version && strcmp(cell(cli, &weights, t, "route"), route) == 0)
            json_put_raw(w, json_raw(&weights, t));
    json_array_close(w);
}

/* The node's object with the scores as one member more. */
static enum err add_scores(struct cli *cli, const struct json_index *ix, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_open(&w);
    for (uint32_t t = json_first(ix, 0); t != JSON_NONE; t = json_next(ix, 0, t)) {
        struct span name;
        if (json_string(&cli->arena, ix, t, &name))
            return ERR_INVALID;
        json_key(&w, name);
        t = json_next(ix, 0, t);
        json_put_raw(&w, json_raw(ix, t));
    }
    append_scores(cli, ix, &w);
    json_object_close(&w);
    return json_writer_end(&w);
}

/* ---- in words ---- */

static void print_asked(struct cli *cli, const struct json_index *ix)
{
    static const char *const features[] = { "stream", "tools", "images", "audio", "json" };
    const char *route = cell(cli, ix, 0, "route"), *where = cell(cli, ix, 0, "where");
    const char *alias = cell(cli, ix, 0, "alias"), *suffix = cell(cli, ix, 0, "suffix");
    printf("asked for   %s", cell(cli, ix, 0, "asked"));
    if (is_set(alias))
        printf(", an alias");
    if (is_set(route))
        printf(", route %s", route);
    if (is_set(where))
        printf(" (%s)", where);
    if (is_set(suffix))
        printf("; :%s wants the %s first", suffix, strcmp(suffix, "floor") == 0 ? "cheapest" : "fastest");
    printf("\nrequest     %s, %s tokens in", cell(cli, ix, 0, "ask.endpoint"), cell(cli, ix, 0, "ask.input_tokens"));
    if (render_u64(ix, 0, "ask.max_output"))
        printf(", at most %s out", cell(cli, ix, 0, "ask.max_output"));
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "ask.%s", features[i]);
        if (strcmp(cell(cli, ix, 0, path), "yes") == 0)
            printf(", %s", features[i]);
    }
    printf("\nby          team %s with %s\n", cell(cli, ix, 0, "key.team"), cell(cli, ix, 0, "key.id"));
}

/* "arm canary: rollout-7 gives it bucket 4812 of its user". */
static void print_arm(struct cli *cli, const struct json_index *ix)
{
    const char *why = cell(cli, ix, 0, "arm.why"), *assignment = cell(cli, ix, 0, "arm.assignment");
    printf("obeys       policy v%s, arm %s", cell(cli, ix, 0, "arm.policy_version"), cell(cli, ix, 0, "arm.name"));
    if (strcmp(why, "only") == 0)
        printf(", as everybody on this route does");
    else if (strcmp(why, "forced") == 0)
        printf(", as the header x-fairlead-arm says");
    else if (strcmp(why, "past") == 0)
        printf(", because you asked for that policy");
    else if (is_set(assignment))
        printf(": %s %s bucket %s, which its %s falls into", assignment,
               strcmp(why, "bucket") == 0 ? "gives it" : "leaves to it", cell(cli, ix, 0, "arm.bucket"),
               cell(cli, ix, 0, "arm.unit_kind"));
    printf("; generation %s on %s\n", cell(cli, ix, 0, "generation"), cell(cli, ix, 0, "node"));
    if (strcmp(cell(cli, ix, 0, "evidence.valid"), "no") == 0)
        printf("            there is no valid evidence: weights are the policy's, health is not known\n");
    if (strcmp(cell(cli, ix, 0, "node_running"), "no") == 0)
        printf("            no node answers here: credentials are judged by this shell's environment\n");
}

static void print_rules(struct cli *cli, const struct json_index *ix, uint32_t candidates)
{
    for (uint32_t t = json_first(ix, candidates); t != JSON_NONE; t = json_next(ix, candidates, t)) {
        const char *rule = cell(cli, ix, t, "rule"), *where = cell(cli, ix, t, "rule_where");
        if (is_set(rule))
            printf("  %s %s: %s%s%s%s\n", cell(cli, ix, t, "model"), cell(cli, ix, t, "because"), rule,
                   is_set(where) ? " (" : "", is_set(where) ? where : "", is_set(where) ? ")" : "");
    }
}

static void print_tiers(struct cli *cli, const struct json_index *ix)
{
    static const struct column columns[] = {
        { "#", "attempt", COLUMN_NUMBER },
        { "MODEL", "model", COLUMN_TEXT },
        { "FIRST", "first_ppm", COLUMN_SHARE },
        { "WEIGHT", "weight_ppm", COLUMN_SHARE },
        { "FROM", "weight_from", COLUMN_TEXT },
        { "TTFT", "ttft_us", COLUMN_US },
        { "P95", "ttft_p95_us", COLUMN_US },
        { "ERRORS", "errors_ppm", COLUMN_SHARE },
        { "BUSY", "outstanding", COLUMN_NUMBER },
        { "IN $/M", "price.input_nano_per_million", COLUMN_NANO_USD },
        { "OUT $/M", "price.output_nano_per_million", COLUMN_NANO_USD },
        { "ESTIMATE $", "estimate_nano", COLUMN_NANO_USD },
        { "PRICE", "price.source", COLUMN_TEXT },
        { "HEALTH", "health.state", COLUMN_TEXT },
        { "BREAKER", "breaker.state", COLUMN_TEXT },
        { "VERDICT", "reason", COLUMN_TEXT },
    };
    const uint32_t tiers = json_get(ix, 0, SPAN("tiers"));
    if (tiers == JSON_NONE)
        return;
    for (uint32_t t = json_first(ix, tiers); t != JSON_NONE; t = json_next(ix, tiers, t)) {
        const char *prefer = cell(cli, ix, t, "prefer"), *where = cell(cli, ix, t, "where");
        const uint32_t candidates = json_get(ix, t, SPAN("candidates"));
        if (strcmp(prefer, "name") == 0)
            printf("\nasked for by name\n");
        else
            printf("\ntier %s, %s%s (%s)\n", cell(cli, ix, t, "tier"),
                   strcmp(prefer, "weights") == 0 ? "weights set by hand" : prefer,
                   strcmp(prefer, "weights") == 0 || strcmp(prefer, "balanced") == 0 ? "" : " preferred", where);
        render_table(cli, ix, candidates, columns, ARRAY_LEN(columns), "no candidates");
        print_rules(cli, ix, candidates);
    }
}

static void print_scores(struct cli *cli, const struct json_index *ix)
{
    static const struct column columns[] = {
        { "TIER", "^tier", COLUMN_NUMBER },
        { "MODEL", "model", COLUMN_TEXT },
        { "POLICY", "policy_ppm", COLUMN_SHARE },
        { "NOW", "weight_ppm", COLUMN_SHARE },
        { "TARGET", "target_ppm", COLUMN_SHARE },
        { "SCORE", "score", COLUMN_SCORE },
        { "COST", "terms.cost", COLUMN_SCORE },
        { "TTFT", "terms.ttft", COLUMN_SCORE },
        { "SPEED", "terms.speed", COLUMN_SCORE },
        { "ERRORS", "terms.errors", COLUMN_SCORE },
        { "HEADROOM", "terms.headroom", COLUMN_SCORE },
        { "OUT BECAUSE", "excluded", COLUMN_TEXT },
        { "FROZEN", "^frozen", COLUMN_TEXT },
    };
    const uint32_t scores = json_get(ix, 0, SPAN("scores"));
    if (!is_set(cell(cli, ix, 0, "route")) || scores == JSON_NONE)
        return;
    if (json_kind(ix, scores) != JSON_ARRAY) {
        printf("\nhow scores came about is not known: no control plane answers\n");
        return;
    }
    printf("\nhow the control plane weighs them (penalties, 0 is best)\n");
    render_nested(cli, ix, scores, "members", columns, ARRAY_LEN(columns), "it no longer follows this policy's route");
}

/* The order of attempts, or why there is none. */
static void print_end(struct cli *cli, const struct json_index *ix)
{
    const uint32_t attempts = json_get(ix, 0, SPAN("attempts")), refused = json_get(ix, 0, SPAN("refused"));
    unsigned number = 0;
    printf("\n");
    for (uint32_t t = attempts == JSON_NONE ? JSON_NONE : json_first(ix, attempts); t != JSON_NONE;
         t = json_next(ix, attempts, t)) {
        printf("%s%u. %s, which %s", number ? "            " : "attempts    ", number + 1, cell(cli, ix, t, "model"),
               cell(cli, ix, t, "because"));
        if (number++ == 0)
            printf(" (this time; a chance of %.1f%%)", (double)render_u64(ix, 0, "propensity_ppb") / 1e7);
        printf("\n");
    }
    if (refused != JSON_NONE && json_kind(ix, refused) == JSON_OBJECT)
        printf("refused     %s: %s\n", cell(cli, ix, refused, "error"), cell(cli, ix, refused, "message"));
}

static void print_decision(struct cli *cli, const struct json_index *ix)
{
    print_asked(cli, ix);
    print_arm(cli, ix);
    print_tiers(cli, ix);
    print_scores(cli, ix);
    print_end(cli, ix);
}

/* The decision, completed and shown. */
static int show(struct cli *cli, struct span decision)
{
    struct buf whole = BUF_INIT(2 * OUTPUT_BYTES_MAX);
    struct json_index ix;
    enum err err = json_index(&cli->arena, decision, &output_limits, &ix, NULL);
    if (!err)
        err = add_scores(cli, &ix, &whole);
    if (!err)
        err = json_index(&cli->arena, buf_span(&whole), &output_limits, &ix, NULL);
    if (!err && cli->json)
        render_json(buf_span(&whole));
    else if (!err)
        print_decision(cli, &ix);
    buf_release(&whole);
    return err ? cli_fail(cli, EXIT_FAILED, "the node's answer is not understood: %s", err_name(err)) : EXIT_GOOD;
}

static int explain_now(struct cli *cli)
{
    struct buf input = BUF_INIT(INPUT_BYTES_MAX), decision = BUF_INIT(OUTPUT_BYTES_MAX);
    int code = input_of_options(cli, &input);
    if (code == EXIT_GOOD)
        code = decide(cli, buf_span(&input), &decision);
    if (code == EXIT_GOOD)
        code = show(cli, buf_span(&decision));
    if (input.data)
        explicit_bzero(input.data, input.cap);
    buf_release(&input);
    buf_release(&decision);
    return code;
}

/* ---- a request of the past ---- */

static bool is_request(const struct cli *cli, const struct json_index *ix, uint32_t record, const char *id)
{
    return json_get(ix, record, SPAN("kind")) == JSON_NONE && strcmp(cell(cli, ix, record, "request_id"), id) == 0;
}

static void copy_member(struct json_writer *w, const struct json_index *ix, uint32_t object, const char *name)
{
    const uint32_t token = json_get(ix, object, span_cstr(name));
    if (token == JSON_NONE)
        return;
    json_key(w, span_cstr(name));
    json_put_raw(w, json_raw(ix, token));
}

/* What its policy makes of such a request now: sizes and features are recorded, the request itself is not. False: not
 * enough is. */
static bool input_of_record(struct cli *cli, const struct json_index *ix, uint32_t record, struct buf *out)
{
    static const char *const features[] = {
        "input_tokens", "max_output", "choices", "tools", "images", "audio", "json"
    };
    const uint32_t known = json_get(ix, record, SPAN("features"));
    struct json_writer w;
    if (known == JSON_NONE || render_u64(ix, record, "policy_version") == 0)
        return false;
    json_writer_init(&w, out);
    json_object_open(&w);
    copy_member(&w, ix, record, "key_id");
    copy_member(&w, ix, record, "endpoint");
    copy_member(&w, ix, record, "asked");
    copy_member(&w, ix, record, "policy_version");
    json_key(&w, SPAN("features"));
    json_object_open(&w);
    for (size_t i = 0; i < ARRAY_LEN(features); i++)
        copy_member(&w, ix, known, features[i]);
    copy_member(&w, ix, record, "stream");
    json_object_close(&w);
    put_unresolved(cli, &w);
    json_object_close(&w);
    return json_writer_end(&w) == OK;
}

/* Its shadows, and what was voted on it. */
static void print_others(const struct cli *cli, const struct json_index *ix)
{
    for (uint32_t t = json_first(ix, 0); t != JSON_NONE; t = json_next(ix, 0, t)) {
        const char *kind = cell(cli, ix, t, "kind");
        if (strcmp(kind, "shadow") == 0 && json_get(ix, t, SPAN("estimate_nano_usd")) != JSON_NONE)
            printf("shadow        policy v%s, arm %s: not sent, its budget had no room\n",
                   cell(cli, ix, t, "policy_version"), cell(cli, ix, t, "arm"));
        else if (strcmp(kind, "shadow") == 0)
            printf("shadow        policy v%s, arm %s: %s, status %s (nobody got its answer)\n",
                   cell(cli, ix, t, "policy_version"), cell(cli, ix, t, "arm"), cell(cli, ix, t, "model"),
                   cell(cli, ix, t, "status"));
        else if (strcmp(kind, "feedback") == 0)
            printf("feedback      %s %s at %s\n", cell(cli, ix, t, "metric"), cell(cli, ix, t, "score"),
                   cell(cli, ix, t, "time"));
    }
}

static int show_past(struct cli *cli, const struct json_index *ix, uint32_t record, struct span now)
{
    struct json_index decision;
    if (cli->json) {
        const struct span parts[] = { SPAN("{\"records\":"), json_raw(ix, 0), SPAN(",\"now\":"),
                                      span_empty(now) ? SPAN("null") : now, SPAN("}") };
        const struct span whole = arena_join(&cli->arena, parts, ARRAY_LEN(parts));
        if (!whole.ptr)
            return cli_fail(cli, EXIT_FAILED, "out of memory");
        render_json(whole);
        return EXIT_GOOD;
    }
    records_print(cli, ix, record);
    print_others(cli, ix);
    if (span_empty(now) || json_index(&cli->arena, now, &output_limits, &decision, NULL))
        return EXIT_GOOD;
    printf("\nSuch a request now, by the same policy v%s on this node (health, weights, prices and overrides are "
           "today's)\n",
           cell(cli, ix, record, "policy_version"));
    print_tiers(cli, &decision);
    print_end(cli, &decision);
    return EXIT_GOOD;
}

static int explain_past(struct cli *cli, const char *id)
{
    struct buf input = BUF_INIT(INPUT_BYTES_MAX), now = BUF_INIT(OUTPUT_BYTES_MAX);
    struct json_index ix;
    struct span json;
    int code = records_of(cli, span_cstr(id), &json);
    if (code == EXIT_GOOD && json_index(&cli->arena, json, &output_limits, &ix, NULL))
        code = cli_fail(cli, EXIT_FAILED, "the record is not understood");
    if (code != EXIT_GOOD)
        return code;
    uint32_t record = json_first(&ix, 0);
    while (record != JSON_NONE && !is_request(cli, &ix, record, id))
        record = json_next(&ix, 0, record);
    if (record == JSON_NONE)
        return cli_fail(cli, EXIT_NOT_FOUND, "only shadows and feedback of '%s' are recorded", id);
    /* Why that cannot be told is said, and no failure: the past was asked for. */
    if (input_of_record(cli, &ix, record, &input) && decide(cli, buf_span(&input), &now) != EXIT_GOOD)
        buf_clear(&now);
    code = show_past(cli, &ix, record, buf_span(&now));
    buf_release(&input);
    buf_release(&now);
    return code;
}

int run_explain(struct cli *cli)
{
    const char *id = cli_arg(cli, 0);
    return id ? explain_past(cli, id) : explain_now(cli);
}
