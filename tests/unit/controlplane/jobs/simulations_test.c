/* The runner, with shell scripts in the simulation's place. */
#include "controlplane/jobs/simulations.h"
#include "common/base.h"
#include "common/file.h"
#include "proto/home.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char home[64], program[96];
static uv_loop_t loop;
static struct simulations *sims;

static void write_program(const char *script)
{
    FILE *file = fopen(program, "w");
    assert_non_null(file);
    assert_true(fprintf(file, "#!/bin/sh\n%s\n", script) > 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(program, 0700), 0);
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(home, sizeof(home), "/tmp/simulations-XXXXXX");
    assert_non_null(mkdtemp(home));
    (void)snprintf(program, sizeof(program), "%s/program", home);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(
        simulations_new(&(struct simulations_options){ .loop = &loop, .home = home, .program = program }, &sims), OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    simulations_close(sims);
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
    char path[128];
    (void)unlink(program);
    (void)snprintf(path, sizeof(path), "%s/" HOME_SIMULATIONS, home);
    assert_int_equal(rmdir(path), 0); /* empty: nothing is left behind */
    (void)snprintf(path, sizeof(path), "%s/" HOME_RUN, home);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(home), 0);
    return 0;
}

static struct span start(uint32_t timeout_ms, enum err expected)
{
    const char *id = NULL;
    const struct simulation_order order = { .live = SPAN("live bytes"),
                                            .candidate = SPAN("candidate bytes"),
                                            .records = "/nowhere",
                                            .since_ms = 77,
                                            .limit = 5,
                                            .timeout_ms = timeout_ms };
    assert_int_equal(simulations_start(sims, &order, &id), expected);
    return span_cstr(id);
}

static struct simulation_status look(struct span id)
{
    struct simulation_status status;
    assert_int_equal(simulations_look(sims, id, &status), OK);
    return status;
}

static struct simulation_status wait_for(struct span id, enum simulation_state state)
{
    struct simulation_status status;
    while ((status = look(id)).state == SIMULATION_RUNNING)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(status.state, state);
    return status;
}

static void progress_and_result_are_told(void **state)
{
    (void)state;
    write_program(
        "[ \"$1\" = --simulate ] && [ \"$(cat \"$2/live\")$(cat \"$2/candidate\")\" = 'live bytescandidate bytes' ] "
        "&&\n"
        "[ ! -e \"$2/head\" ] && [ \"$3 $4 $5 $6 $7 $8\" = '--records /nowhere --since 77 --limit 5' ] || exit 9\n"
        "echo '{\"progress\":{\"records\":7,\"bytes\":100,\"bytes_total\":200}}'\n"
        "echo '{\"lines\":7,\"result\":{\"requests\":3}}'");
    const struct span id = start(60000, OK);
    const struct simulation_status status = wait_for(id, SIMULATION_DONE);
    assert_true(span_eq(status.result, SPAN("{\"lines\":7,\"result\":{\"requests\":3}}")));
    assert_true(status.records == 7 && status.bytes == 100 && status.bytes_total == 200);
}

static void failures_say_why(void **state)
{
    (void)state;
    write_program("echo '{\"error\":\"a table is bad\"}'; exit 1");
    assert_string_equal(wait_for(start(60000, OK), SIMULATION_FAILED).why, "a table is bad");
    write_program("kill -SEGV $$");
    assert_string_equal(wait_for(start(60000, OK), SIMULATION_FAILED).why, "its process ended by signal 11");
    write_program("echo no JSON at all; exit 0");
    assert_string_equal(wait_for(start(60000, OK), SIMULATION_FAILED).why, "its process ended with 0");
    write_program("exec sleep 1000");
    assert_string_equal(wait_for(start(50, OK), SIMULATION_FAILED).why,
                        "it took too long; ask for less with --since or --limit");
    assert_int_equal(unlink(program), 0);
    assert_true(span_empty(start(50, ERR_IO)));
}

static void only_a_few_run_and_each_can_be_cancelled(void **state)
{
    (void)state;
    struct simulation_status status;
    write_program("exec sleep 1000");
    const struct span first = start(600000, OK), second = start(600000, OK);
    (void)start(600000, ERR_AGAIN);
    assert_int_equal(simulations_cancel(sims, SPAN("sim-unknown")), ERR_NOT_FOUND);
    assert_int_equal(simulations_look(sims, SPAN("sim-unknown"), &status), ERR_NOT_FOUND);
    assert_int_equal(simulations_cancel(sims, first), OK);
    (void)wait_for(first, SIMULATION_CANCELLED);
    assert_int_equal(look(second).state, SIMULATION_RUNNING);
    (void)start(600000, OK); /* ended with the runner, as the second */
}

static void old_ones_are_forgotten(void **state)
{
    (void)state;
    char kept[SIMULATIONS_ID_BYTES];
    struct simulation_status status;
    write_program("echo '{\"result\":1}'");
    const struct span id = start(60000, OK);
    memcpy(kept, id.ptr, id.len + 1);
    (void)wait_for(id, SIMULATION_DONE);
    for (unsigned i = 0; i < SIMULATIONS_KEPT_MAX; i++)
        (void)wait_for(start(60000, OK), SIMULATION_DONE);
    assert_int_equal(simulations_look(sims, span_cstr(kept), &status), ERR_NOT_FOUND);
}

static void what_an_earlier_one_left_is_removed(void **state)
{
    (void)state;
    struct simulations *other = NULL;
    char dir[128], file[160];
    (void)snprintf(dir, sizeof(dir), "%s/" HOME_SIMULATIONS "/sim-old", home);
    (void)snprintf(file, sizeof(file), "%s/live", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(file_write_atomic(file, SPAN("x"), 0600), OK);
    assert_int_equal(
        simulations_new(&(struct simulations_options){ .loop = &loop, .home = home, .program = program }, &other), OK);
    assert_false(file_exists(dir));
    simulations_close(other);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(progress_and_result_are_told),
        T(failures_say_why),
        T(only_a_few_run_and_each_can_be_cancelled),
        T(old_ones_are_forgotten),
        T(what_an_earlier_one_left_is_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
