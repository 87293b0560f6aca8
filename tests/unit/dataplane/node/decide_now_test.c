/* What --explain makes of what comes on its standard input, with a store and a board as a node has them. */
#include "dataplane/node/decide_now.h"
#include "common/clock.h"
#include "common/file.h"
#include "proto/board.h"
#include "proto/tablestore.h"
#include "tests/unit/dataplane/node/table_sample.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <unistd.h>

#define KEY "fl-2222222222222222222222222222222222222222"

struct fixture {
    char dir[64], board_path[96], store_path[96];
    struct arena arena;
    struct board *board;
    struct node_config config;
    struct buf out;
    const char *why;
};

static void apply(struct tablestore *store, const struct table_change *change)
{
    struct table_version now;
    assert_int_equal(tablestore_apply(store, change, 1, &now), OK);
}

static void put_directory(struct tablestore *store)
{
    struct span routes[] = { SPAN("chat") };
    struct team team = { .name = SPAN("research"), .routes = { routes, 1 }, .where = SPAN("directory.yaml:4") };
    struct key_record keys[] = {
        { .hash = sha256_of(SPAN(KEY)), .id = SPAN("key_one"), .team = SPAN("research") },
        { .hash = sha256_of(SPAN("two")), .id = SPAN("key_two"), .team = SPAN("research"), .revoked = true },
    };
    const struct directory_delta delta = { .epoch = 1,
                                           .to_seq = 1,
                                           .full = true,
                                           .has_teams = true,
                                           .teams = { .epoch = 1, .seq = 1, .items = &team, .count = 1 },
                                           .keys = keys,
                                           .key_count = ARRAY_LEN(keys) };
    apply(store, &(struct table_change){ .directory = &delta });
}

/* Policy 1 is live, 2 was; the store is closed again: a process opens it once. */
static void fill_store(struct fixture *f)
{
    struct tablestore *store;
    const struct object second = sample_artifact(&f->arena, 2), first = sample_artifact(&f->arena, 1);
    const struct object was = sample_head(&f->arena, 1, 1, &second), is = sample_head(&f->arena, 1, 2, &first);
    assert_int_equal(tablestore_open(f->store_path, false, &store), OK);
    put_directory(store);
    apply(store, &(struct table_change){ .head = &was, .artifacts = &second, .artifact_count = 1 });
    apply(store, &(struct table_change){ .head = &is, .artifacts = &first, .artifact_count = 1 });
    tablestore_close(store);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    (void)snprintf(f->dir, sizeof(f->dir), "/dev/shm/fairlead-decide-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->board_path, sizeof(f->board_path), "%s/board", f->dir);
    (void)snprintf(f->store_path, sizeof(f->store_path), "%s/store", f->dir);
    arena_init(&f->arena, 64u << 20);
    buf_init(&f->out, DECIDE_NOW_OUT_BYTES);
    f->config.name = strdup("node-1");
    assert_int_equal(board_create(f->board_path, 1, &f->board), OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = { "store/data.mdb", "store/lock.mdb", "board" };
    board_close(f->board);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = file_join(f->dir, names[i]);
        (void)unlink(path);
        free(path);
    }
    (void)rmdir(f->store_path);
    (void)rmdir(f->dir);
    free(f->config.name);
    buf_release(&f->out);
    arena_release(&f->arena);
    free(f);
    return 0;
}

static void decides(struct fixture *f, const char *in, enum err expected, const char *says)
{
    buf_clear(&f->out);
    const enum err err = decide_now(&f->config, f->board, f->store_path, span_cstr(in), &f->out, &f->why);
    if (err != expected)
        fail_msg("%s for %s: %s", err_name(err), in, f->why);
    const char *text = err ? f->why : buf_cstr(&f->out);
    if (!strstr(text, says))
        fail_msg("no '%s' in: %s", says, text);
    assert_true((err == OK) == (f->out.len > 0));
}

#define REQUEST "\"request\":{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"

static void nothing_was_ever_pushed(void **state)
{
    struct fixture *f = *state;
    decides(f, "{\"key_id\":\"key_one\"," REQUEST "}", ERR_AGAIN, "no policy yet");
}

static void what_cannot_be_asked(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *in;
        enum err err;
        const char *says;
    } cases[] = {
        { "", ERR_SYNTAX, "standard input" },
        { "{\"key_id\":\"key_one\"}", ERR_INVALID, "neither a request nor its features" },
        { "{\"key_id\":\"key_one\",\"request\":{\"model\":\"chat\"}}", ERR_INVALID, "messages" },
        { "{\"key_id\":\"key_one\",\"request\":7}", ERR_INVALID, "the request: " },
        { "{\"key_id\":\"key_one\",\"features\":{}}", ERR_INVALID, "no model is asked for" },
        { "{\"key_id\":\"key_one\",\"endpoint\":\"audio\"," REQUEST "}", ERR_INVALID, "no endpoint 'audio'" },
        { "{\"key_id\":\"key_one\",\"headers\":{\"a\":1}," REQUEST "}", ERR_INVALID, "a header is no text" },
        { "{\"key_id\":\"key_nil\"," REQUEST "}", ERR_NOT_FOUND, "no key 'key_nil'" },
        { "{" REQUEST "}", ERR_NOT_FOUND, "no key ''" },
        { "{\"key\":\"fl-other\"," REQUEST "}", ERR_NOT_FOUND, "no such key" },
        { "{\"key_id\":\"certificate:ci\"," REQUEST "}", ERR_INVALID, "certificate" },
        { "{\"key_id\":\"key_two\"," REQUEST "}", ERR_UNAUTHORIZED, "key key_two: " },
        { "{\"key_id\":\"key_one\",\"policy_version\":9," REQUEST "}", ERR_NOT_FOUND, "no longer holds policy v9" },
        { "{\"key_id\":\"key_one\",\"headers\":{\"X-Fairlead-Arm\":\"stable\"}," REQUEST "}", ERR_UNAUTHORIZED,
          "may not choose an arm (may: [choose_arm] in directory.yaml:4)" },
    };
    fill_store(f);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        decides(f, cases[i].in, cases[i].err, cases[i].says);
}

static void by_key_and_by_id(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    decides(f, "{\"key\":\"" KEY "\"," REQUEST ",\"unresolved\":[]}", OK, "\"id\":\"key_one\"");
    assert_null(strstr(buf_cstr(&f->out), KEY)); /* a secret does not come out again */
    decides(f, "{\"key_id\":\"key_one\"," REQUEST ",\"unresolved\":[]}", OK, "\"refused\":null");
    decides(f, "{\"key_id\":\"key_one\"," REQUEST ",\"asked\":\"fake/small\"}", OK, "\"error\":\"model_not_found\"");
}

/* Credentials: what the running node says outranks what this process has. */
static void what_the_node_lacks(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    decides(f, "{\"key_id\":\"key_one\"," REQUEST "}", OK, "\"reason\":\"no_credential\"");
    decides(f, "{\"key_id\":\"key_one\"," REQUEST ",\"unresolved\":[\"openai-a\"]}", OK,
            "\"rule\":\"this node has no secret for openai-a\"");
    decides(f, "{\"key_id\":\"key_one\"," REQUEST ",\"unresolved\":[\"other\"]}", OK, "\"reason\":\"only\"");
}

static void by_features_and_by_a_policy_of_the_past(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    decides(f,
            "{\"key_id\":\"key_one\",\"asked\":\"chat\",\"unresolved\":[],\"features\":{\"input_tokens\":12,"
            "\"max_output\":7,\"tools\":true}}",
            OK, "\"reason\":\"no_tools\"");
    assert_non_null(strstr(buf_cstr(&f->out), "\"input_tokens\":12,\"max_output\":7,\"choices\":1"));
    decides(f, "{\"key_id\":\"key_one\",\"policy_version\":2,\"unresolved\":[]," REQUEST "}", OK,
            "\"arm\":{\"name\":\"past\",\"policy_version\":2,\"why\":\"past\"");
    decides(f, "{\"key_id\":\"key_one\",\"policy_version\":1,\"unresolved\":[]," REQUEST "}", OK,
            "\"arm\":{\"name\":\"stable\",\"policy_version\":1,\"why\":\"past\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_was_ever_pushed, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(by_key_and_by_id, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_node_lacks, setup, teardown),
        cmocka_unit_test_setup_teardown(by_features_and_by_a_policy_of_the_past, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
