/* policy test: assertions beside a policy, compiled by the control plane's program and decided by the data plane's. */
#include "admin-cli/cli.h"
#include "admin-cli/policy_tests.h"
#include "common/file.h"
#include "proto/simulation.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define TESTS_BYTES_MAX   (4u << 20)
#define ANSWERS_BYTES_MAX (64u << 20)
#define REQUESTS          "requests"
#define ANSWERS           "answers"

extern char **environ;

struct bench { /* a private directory, for as long as the test runs */
    char dir[64];
    const char *file;
    struct policy_tests tests;
    struct buf answers;
    struct json_index ix;
};

/* `name` beside the file of tests; in the arena. */
static const char *beside(struct cli *cli, const struct bench *b, const char *name)
{
    char *copy = name[0] == '/' ? NULL : arena_printf(&cli->arena, "%s", b->file);
    return copy ? arena_printf(&cli->arena, "%s/%s", dirname(copy), name) : name;
}

/* With input and output from and to files of the bench (NULL: ours). The exit status, or -1. */
static int run(struct cli *cli, const struct bench *b, const char *name, char *const *argv, const char *in,
               const char *out)
{
    posix_spawn_file_actions_t actions;
    char *program = cli_program(name);
    pid_t pid;
    int status = -1;
    fflush(stdout);
    posix_spawn_file_actions_init(&actions);
    if (in)
        posix_spawn_file_actions_addopen(&actions, 0, arena_printf(&cli->arena, "%s/%s", b->dir, in), O_RDONLY, 0);
    if (out)
        posix_spawn_file_actions_addopen(&actions, 1, arena_printf(&cli->arena, "%s/%s", b->dir, out),
                                         O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int rc = program ? posix_spawnp(&pid, program, &actions, NULL, argv, environ) : ENOMEM;
    posix_spawn_file_actions_destroy(&actions);
    free(program);
    if (rc != 0) {
        (void)cli_fail(cli, EXIT_FAILED, "%s cannot be run: %s", name, strerror(rc));
        return -1;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int compile(struct cli *cli, const struct bench *b)
{
    const char *policy = beside(cli, b, b->tests.policy ? b->tests.policy : "policy.yaml");
    const char *directory = beside(cli, b, b->tests.directory ? b->tests.directory : "directory.yaml");
    const char *prices = opts_text(&cli->given, "prices", NULL);
    const char *argv[10] = { "fairlead-controlplane", "--compile", policy, "--to", b->dir };
    unsigned argc = 5;
    if (b->tests.directory || file_exists(directory)) {
        argv[argc++] = "--directory";
        argv[argc++] = directory;
    }
    if (prices) {
        argv[argc++] = "--prices";
        argv[argc++] = prices;
    }
    const int status = run(cli, b, argv[0], (char *const *)(uintptr_t)argv, NULL, NULL);
    return status == 0 ? EXIT_GOOD : status == 1 ? EXIT_REFUSED : EXIT_FAILED;
}

static int decide(struct cli *cli, struct bench *b)
{
    const char *argv[] = { "fairlead-dataplane", "--decide", b->dir, NULL };
    const char *requests = arena_printf(&cli->arena, "%s/" REQUESTS, b->dir);
    const char *answers = arena_printf(&cli->arena, "%s/" ANSWERS, b->dir);
    struct buf out = BUF_INIT(ANSWERS_BYTES_MAX);
    struct json_writer w;
    json_writer_init(&w, &out);
    policy_tests_ask(&b->tests, &w);
    enum err err = json_writer_end(&w);
    if (!err)
        err = requests && answers ? file_write_atomic(requests, buf_span(&out), 0600) : ERR_NOMEM;
    buf_release(&out);
    if (err)
        return cli_fail(cli, EXIT_FAILED, "%s cannot be written: %s", b->dir, err_name(err));
    const int status = run(cli, b, argv[0], (char *const *)(uintptr_t)argv, REQUESTS, ANSWERS);
    err = file_read(answers, ANSWERS_BYTES_MAX, &b->answers);
    const struct json_limits limits = { .bytes_max = ANSWERS_BYTES_MAX, .depth_max = 16, .tokens_max = 16u << 20 };
    if (!err)
        err = json_index(&cli->arena, buf_span(&b->answers), &limits, &b->ix, NULL);
    if (status == 0 && !err)
        return EXIT_GOOD;
    static const struct column why = { "error", "error", COLUMN_TEXT };
    return cli_fail(cli, EXIT_FAILED, "fairlead-dataplane could not decide: %s",
                    !err && json_get(&b->ix, 0, SPAN("error")) != JSON_NONE ? render_cell(cli, &b->ix, 0, &why)
                                                                            : "it ended badly");
}

/* ---- telling ---- */

static void tell(const struct bench *b, const struct policy_test *test, const struct policy_failure *failures,
                 unsigned count)
{
    printf("%s %s\n", count ? "FAIL" : "ok  ", test->name);
    for (unsigned i = 0; i < count; i++)
        printf("  %s:%u:%u: %s%s%s\n", b->file, failures[i].at->line, failures[i].at->column,
               failures[i].at->key ? failures[i].at->key->text.ptr : "", failures[i].at->key ? ": " : "",
               failures[i].message);
}

static void tell_json(struct json_writer *w, const struct policy_test *test, const struct policy_failure *failures,
                      unsigned count)
{
    json_object_open(w);
    json_member_cstr(w, "name", test->name);
    json_member_u64(w, "line", test->node->line);
    json_member_bool(w, "passed", count == 0);
    json_key(w, SPAN("failures"));
    json_array_open(w);
    for (unsigned i = 0; i < count; i++) {
        json_object_open(w);
        json_member_u64(w, "line", failures[i].at->line);
        json_member_u64(w, "column", failures[i].at->column);
        json_member_cstr(w, "expected", failures[i].at->key ? failures[i].at->key->text.ptr : "");
        json_member_cstr(w, "message", failures[i].message);
        json_object_close(w);
    }
    json_array_close(w);
    json_object_close(w);
}

static int judge(struct cli *cli, struct bench *b)
{
    const uint32_t answers = json_get(&b->ix, 0, SPAN("answers"));
    struct buf out = BUF_INIT(ANSWERS_BYTES_MAX);
    struct json_writer w;
    unsigned failed = 0;
    json_writer_init(&w, &out);
    json_object_open(&w);
    json_key(&w, SPAN("tests"));
    json_array_open(&w);
    uint32_t answer = answers == JSON_NONE ? JSON_NONE : json_first(&b->ix, answers);
    for (uint32_t i = 0; i < b->tests.count && answer != JSON_NONE; i++) {
        struct policy_failure failures[POLICY_FAILURES_MAX];
        const unsigned count = policy_test_judge(&cli->arena, &b->tests.items[i], &b->ix, answer, failures);
        failed += count > 0;
        if (!cli->json)
            tell(b, &b->tests.items[i], failures, count);
        tell_json(&w, &b->tests.items[i], failures, count);
        answer = json_next(&b->ix, answers, answer);
    }
    json_array_close(&w);
    json_member_u64(&w, "passed", b->tests.count - failed);
    json_member_u64(&w, "failed", failed);
    json_object_close(&w);
    const enum err err = json_writer_end(&w);
    if (cli->json && !err)
        render_json(buf_span(&out));
    else if (!cli->json)
        printf("%u passed, %u failed\n", b->tests.count - failed, failed);
    buf_release(&out);
    return err ? EXIT_FAILED : failed ? EXIT_REFUSED : EXIT_GOOD;
}

static void clear(const struct bench *b)
{
    static const char *const names[] = { SIMULATION_CANDIDATE, SIMULATION_DIRECTORY, REQUESTS, ANSWERS };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = file_join(b->dir, names[i]);
        if (path)
            (void)unlink(path);
        free(path);
    }
    (void)rmdir(b->dir);
}

int run_policy_test(struct cli *cli)
{
    struct bench b = { .file = cli_arg(cli, 0), .answers = BUF_INIT(ANSWERS_BYTES_MAX) };
    struct buf text = BUF_INIT(TESTS_BYTES_MAX);
    const char *why = "";
    enum err err = file_read(b.file, TESTS_BYTES_MAX, &text);
    if (err) {
        buf_release(&text);
        return cli_fail(cli, err == ERR_NOT_FOUND ? EXIT_NOT_FOUND : EXIT_REFUSED, "%s cannot be read: %s", b.file,
                        err == ERR_NOT_FOUND ? "it is not there" : err_name(err));
    }
    err = policy_tests_read(&cli->arena, b.file, buf_span(&text), &b.tests, &why);
    buf_release(&text);
    if (err)
        return cli_fail(cli, EXIT_REFUSED, "%s", why);
    (void)snprintf(b.dir, sizeof(b.dir), "/tmp/fairlead-test-XXXXXX");
    if (!mkdtemp(b.dir))
        return cli_fail(cli, EXIT_FAILED, "a directory in /tmp cannot be made: %s", strerror(errno));
    int code = compile(cli, &b);
    if (code == EXIT_GOOD)
        code = decide(cli, &b);
    if (code == EXIT_GOOD)
        code = judge(cli, &b);
    clear(&b);
    buf_release(&b.answers);
    return code;
}
