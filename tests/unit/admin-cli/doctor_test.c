/* What the doctor makes of the control plane's and the node's answers: each trouble is found, with what to do, and
 * a healthy house has none. */
#include "admin-cli/doctor.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define NOW INT64_C(1800000000000) /* 2027-01-15 */

static struct cli cli;
static struct doctor doctor;

static int set_up(UNUSED void **state)
{
    cli = (struct cli){ .home = (char *)(uintptr_t) "/h", .address = (char *)(uintptr_t) "ipc:///h/run/admin.ipc" };
    arena_init(&cli.arena, 1u << 26);
    arena_init(&cli.lasting, 1u << 26);
    doctor = (struct doctor){ .arena = &cli.lasting };
    return 0;
}

static int tear_down(UNUSED void **state)
{
    arena_release(&cli.arena);
    arena_release(&cli.lasting);
    return 0;
}

static struct json_index index_of(const char *json)
{
    struct json_index ix;
    assert_int_equal(json_index(&cli.lasting, span_cstr(json), &json_limits_default, &ix, NULL), OK);
    return ix;
}

#define NODE                                                                                                           \
    "\"node\":\"n1\",\"state\":\"current\",\"workers\":2,\"version\":\"" FAIRLEAD_VERSION                              \
    "\",\"clock_skew_ms\":-300,\"seen_ms_ago\":100,\"nacks\":[],\"unresolved_credentials\":[]"
#define STATUS(more, node)                                                                                             \
    "{\"version\":\"" FAIRLEAD_VERSION "\",\"uptime_ms\":3600000,\"arms\":[{\"version\":7}],\"teams\":1," more         \
    "\"nodes\":[{" node "}]}"
#define FACTS(now, models)                                                                                             \
    "{\"now_ms\":" now                                                                                                 \
    ",\"disk\":{\"path\":\"/c\",\"bytes\":1000000000000,\"available_bytes\":500000000000},\"models\":[" models "]}"
#define GOOD_FACTS                                                                                                     \
    FACTS("1800000000100",                                                                                             \
          "{\"name\":\"a/m\",\"priced\":true,\"stale\":false,\"disputed\":false,\"deprecated_on\":\"\"}")
#define PROBE                          "\"how\":\"models\",\"every_ms\":30000,\"at_ms\":1799999990000,\"stale\":false"
#define PROVIDERS(provider, overrides) "{\"providers\":[{" provider "}],\"overrides\":[" overrides "]}"
#define GOOD_PROVIDERS                                                                                                 \
    PROVIDERS("\"name\":\"a\",\"health\":\"up\",\"why\":\"\",\"probe\":{" PROBE                                        \
              ",\"certificate_expires_at_ms\":1900000000000},\"models\":[{\"name\":\"a/m\",\"health\":\"up\"}]",       \
              "")

static void judge(const char *status, const char *providers, const char *facts)
{
    const struct json_index s = index_of(status), p = index_of(providers), f = index_of(facts);
    doctor_judge_control(&doctor, &cli, &s, &p, &f, NOW);
}

/* Exactly one finding of this level says this, and it comes with advice. */
static void found(enum doctor_level level, const char *area, const char *what)
{
    unsigned count = 0;
    for (unsigned i = 0; i < doctor.count; i++) {
        const struct doctor_finding *f = &doctor.findings[i];
        if (f->level != level || strcmp(f->area, area) != 0 || !strstr(f->what, what))
            continue;
        count++;
        assert_true(level == DOCTOR_GOOD || *f->advice);
    }
    if (count != 1) {
        for (unsigned i = 0; i < doctor.count; i++)
            print_message("%d %s: %s\n", doctor.findings[i].level, doctor.findings[i].area, doctor.findings[i].what);
        fail_msg("%u findings of level %d in %s say '%s'", count, level, area, what);
    }
    doctor = (struct doctor){ .arena = &cli.lasting };
}

static void healthy(UNUSED void **state)
{
    judge(STATUS("", NODE), GOOD_PROVIDERS, GOOD_FACTS);
    assert_int_equal(doctor.levels[DOCTOR_ERROR] + doctor.levels[DOCTOR_WARNING] + doctor.levels[DOCTOR_NOTE], 0);
    assert_int_equal(doctor.levels[DOCTOR_GOOD], 8);
    assert_int_equal(doctor.count, 8);
}

static void roles(UNUSED void **state)
{
    judge(STATUS("", NODE), GOOD_PROVIDERS,
          "{\"now_ms\":1800000000100,\"roles_refused\":\"3:17: a role is one of viewer, operator, "
          "admin\",\"models\":[]}");
    assert_int_equal(doctor.levels[DOCTOR_ERROR], 1);
    found(DOCTOR_ERROR, "roles",
          "gives nobody a role, only root and the control plane's user may ask: 3:17: a role is");
}

static void policies_and_nodes(UNUSED void **state)
{
    judge("{\"version\":\"" FAIRLEAD_VERSION "\",\"arms\":[],\"teams\":1,\"nodes\":[]}", GOOD_PROVIDERS, GOOD_FACTS);
    assert_int_equal(doctor.levels[DOCTOR_ERROR], 2);
    found(DOCTOR_ERROR, "policy", "no policy is live");
    judge("{\"version\":\"x\",\"arms\":[],\"nodes\":[]}", GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_ERROR, "nodes", "no node has been heard of");
    judge("{\"version\":\"x\",\"arms\":[],\"nodes\":[]}", GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_WARNING, "policy", "no teams");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"silent\",\"seen_ms_ago\":90000,\"version\":\"" FAIRLEAD_VERSION "\""),
          GOOD_PROVIDERS, GOOD_FACTS);
    assert_int_equal(doctor.levels[DOCTOR_ERROR], 1); /* not also that it has no workers */
    found(DOCTOR_ERROR, "nodes", "n2 has not been heard of for 90 s");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"current\",\"workers\":0"), GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_ERROR, "nodes", "n2 has no workers");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"refusing\",\"workers\":1,\"nacks\":[{\"kind\":\"head\",\"seq\":9,"
                     "\"reason\":\"crashed\"}]"),
          GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_ERROR, "nodes", "n2 refused head 9: crashed");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"other epoch\",\"workers\":1"), GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_ERROR, "nodes", "another epoch");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"pinned\",\"workers\":1"), GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_WARNING, "nodes", "pinned");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"current\",\"workers\":1,\"unresolved_credentials\":[\"groq\"]"),
          GOOD_PROVIDERS, GOOD_FACTS);
    found(DOCTOR_ERROR, "credentials", "n2 cannot resolve the credential \"groq\"");
    judge(STATUS("", "\"node\":\"n2\",\"state\":\"current\",\"workers\":1,\"version\":\"0.0.1\""), GOOD_PROVIDERS,
          GOOD_FACTS);
    found(DOCTOR_WARNING, "versions", "node n2 is 0.0.1");
}

static void clocks(UNUSED void **state)
{
    judge(STATUS("", NODE), GOOD_PROVIDERS, FACTS("1800000002500", ""));
    found(DOCTOR_WARNING, "clocks", "2.5 s ahead of this machine's");
    judge(STATUS("", NODE), GOOD_PROVIDERS, FACTS("1799999000000", ""));
    found(DOCTOR_ERROR, "clocks", "1000.0 s behind this machine's");
    judge(STATUS("", "\"node\":\"n1\",\"state\":\"current\",\"workers\":1,\"clock_skew_ms\":-61000"), GOOD_PROVIDERS,
          GOOD_FACTS);
    found(DOCTOR_ERROR, "clocks", "node n1's clock is 61.0 s behind the control plane's");
}

static void providers(UNUSED void **state)
{
    judge(STATUS("", NODE),
          PROVIDERS("\"name\":\"a\",\"health\":\"down\",\"why\":\"connect refused\",\"probe\":{" PROBE "}", ""),
          GOOD_FACTS);
    found(DOCTOR_ERROR, "providers", "a answers no probe: connect refused");
    judge(
        STATUS("", NODE),
        PROVIDERS("\"name\":\"a\",\"health\":\"unknown\",\"probe\":{\"how\":\"models\",\"every_ms\":30000,\"at_ms\":0}",
                  ""),
        GOOD_FACTS);
    found(DOCTOR_WARNING, "providers", "a has not been probed yet");
    judge(
        "{\"version\":\"" FAIRLEAD_VERSION "\",\"uptime_ms\":1000,\"nodes\":[{" NODE "}]}",
        PROVIDERS("\"name\":\"a\",\"health\":\"unknown\",\"probe\":{\"how\":\"models\",\"every_ms\":30000,\"at_ms\":0}",
                  ""),
        GOOD_FACTS);
    found(DOCTOR_NOTE, "providers", "a has not been probed yet"); /* its first is still to come */
    judge(STATUS("", NODE),
          PROVIDERS("\"name\":\"a\",\"health\":\"unknown\",\"probe\":{\"how\":\"none\",\"at_ms\":0}", ""), GOOD_FACTS);
    found(DOCTOR_GOOD, "providers", "1, none down"); /* the policy wants no probes */
    judge(STATUS("", NODE),
          PROVIDERS(
              "\"name\":\"a\",\"health\":\"up\",\"probe\":{" PROBE ",\"certificate_expires_at_ms\":1800864000000}", ""),
          GOOD_FACTS);
    found(DOCTOR_WARNING, "certificates", "a expires in 10 days");
    judge(STATUS("", NODE),
          PROVIDERS(
              "\"name\":\"a\",\"health\":\"up\",\"probe\":{" PROBE ",\"certificate_expires_at_ms\":1799999999999}", ""),
          GOOD_FACTS);
    found(DOCTOR_ERROR, "certificates", "has expired");
    judge(STATUS("", NODE),
          PROVIDERS("\"name\":\"a\",\"health\":\"up\",\"probe\":{" PROBE
                    "},\"models\":[{\"name\":\"a/m\",\"health\":\"down\",\"why\":\"errors\",\"breakers_open\":2}]",
                    ""),
          GOOD_FACTS);
    assert_int_equal(doctor.levels[DOCTOR_WARNING], 2);
    found(DOCTOR_WARNING, "models", "a/m is down: errors");
    judge(STATUS("", NODE),
          PROVIDERS(
              "\"name\":\"a\",\"health\":\"up\",\"probe\":{" PROBE "}",
              "{\"kind\":\"block\",\"target\":\"a\",\"by\":\"ann\",\"reason\":\"r\",\"expires_at_ms\":1800000600000},{"
              "\"kind\":\"drain\",\"target\":\"b\",\"by\":\"ann\",\"reason\":\"s\",\"expires_at_ms\":0}"),
          GOOD_FACTS);
    assert_int_equal(doctor.levels[DOCTOR_NOTE], 1);
    found(DOCTOR_WARNING, "overrides", "the block of a (by ann: r) ends in 10 min");
}

static void prices_and_retirement(UNUSED void **state)
{
    judge(STATUS("\"evidence\":{\"prices\":{\"quarantined\":3,\"feed\":{\"stale\":true,\"problem\":\"404\"}}},", NODE),
          GOOD_PROVIDERS, GOOD_FACTS);
    assert_int_equal(doctor.levels[DOCTOR_WARNING], 3);
    found(DOCTOR_WARNING, "prices", "3 prices are held back");
    judge(STATUS("", NODE), GOOD_PROVIDERS, FACTS("1800000000000", "{\"name\":\"a/m\",\"priced\":false}"));
    found(DOCTOR_WARNING, "prices", "no price for a/m any more");
    judge(STATUS("", NODE), GOOD_PROVIDERS,
          FACTS("1800000000000", "{\"name\":\"a/m\",\"priced\":true,\"deprecated_on\":\"2027-02-14\"}"));
    found(DOCTOR_WARNING, "retirement", "a/m will be switched off on 2027-02-14, in 30 days");
    judge(STATUS("", NODE), GOOD_PROVIDERS,
          FACTS("1800000000000", "{\"name\":\"a/m\",\"priced\":true,\"deprecated_on\":\"2027-02-15\"}"));
    found(DOCTOR_GOOD, "retirement", "no model");
    judge(STATUS("", NODE), GOOD_PROVIDERS,
          FACTS("1800000000000", "{\"name\":\"a/m\",\"priced\":true,\"deprecated_on\":\"2027-01-15\"}"));
    found(DOCTOR_ERROR, "retirement", "was to be switched off on 2027-01-15");
    judge(STATUS("", NODE), GOOD_PROVIDERS,
          FACTS("1800000000000", "{\"name\":\"a/m\",\"priced\":true,\"deprecated_on\":\"soon\"}"));
    found(DOCTOR_GOOD, "retirement", "no model"); /* no date, no alarm */
}

static void this_node(UNUSED void **state)
{
    struct json_index ix =
        index_of("{\"node\":\"n1\",\"control_connected\":true,\"records_dropped\":0,\"restarts\":0}");
    doctor_judge_node(&doctor, &cli, &ix);
    found(DOCTOR_GOOD, "node", "n1 serves");
    ix = index_of("{\"node\":\"n1\",\"control_connected\":false,\"records_dropped\":7,\"restarts\":2,"
                  "\"last_change\":{\"change\":\"reload\",\"outcome\":\"failed\",\"why\":\"bad port\"}}");
    doctor_judge_node(&doctor, &cli, &ix);
    assert_int_equal(doctor.levels[DOCTOR_GOOD], 0);
    assert_int_equal(doctor.levels[DOCTOR_NOTE], 1);
    assert_int_equal(doctor.levels[DOCTOR_WARNING], 2);
    found(DOCTOR_ERROR, "node", "the last reload failed: bad port");
}

static void disks(UNUSED void **state)
{
    doctor_disk(&doctor, "home", "/h", UINT64_C(50) << 30, UINT64_C(100) << 30);
    found(DOCTOR_GOOD, "disk", "50 GiB left, 50%");
    doctor_disk(&doctor, "home", "/h", UINT64_C(4) << 30, UINT64_C(100) << 30);
    found(DOCTOR_WARNING, "disk", "4.00 GiB left");
    doctor_disk(&doctor, "home", "/h", UINT64_C(512) << 20, UINT64_C(2) << 30); /* a quarter, and not much */
    found(DOCTOR_WARNING, "disk", "0.50 GiB");
    doctor_disk(&doctor, "home", "/h", UINT64_C(1) << 20, UINT64_C(2) << 20);
    found(DOCTOR_ERROR, "disk", "as good as full");
}

static void more_than_fit(UNUSED void **state)
{
    for (unsigned i = 0; i < DOCTOR_FINDINGS_MAX + 3; i++)
        doctor_add(&doctor, DOCTOR_ERROR, "nodes", "x", "n%u", i);
    doctor_good_since(&doctor, DOCTOR_FINDINGS_MAX, "nodes", "all well");
    assert_int_equal(doctor.count, DOCTOR_FINDINGS_MAX);
    assert_int_equal(doctor.levels[DOCTOR_ERROR], DOCTOR_FINDINGS_MAX + 3);
    assert_int_equal(doctor.levels[DOCTOR_GOOD], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(healthy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(roles, set_up, tear_down),
        cmocka_unit_test_setup_teardown(policies_and_nodes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(clocks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(providers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(prices_and_retirement, set_up, tear_down),
        cmocka_unit_test_setup_teardown(this_node, set_up, tear_down),
        cmocka_unit_test_setup_teardown(disks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(more_than_fit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
