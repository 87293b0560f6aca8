/* The registry of nodes: who serves what, who is behind, who may take another epoch. */
#include "controlplane/publish/nodes.h"
#include "tests/unit/controlplane/journal/heard.h"
#include "tests/unit/controlplane/publish/support.h"

static struct nodes *nodes;
static struct buf text;

static int set_up(void **state)
{
    (void)state;
    buf_init(&text, 16u << 20);
    return nodes_new(&nodes);
}

static int tear_down(void **state)
{
    (void)state;
    fault_disarm_all();
    nodes_free(nodes);
    buf_release(&text);
    return 0;
}

static struct fetch_request report_of(const char *name, uint64_t epoch, uint64_t generation, uint64_t directory)
{
    const struct table_version at = { .epoch = epoch, .generation = generation, .directory_seq = directory };
    return (struct fetch_request){ .protocol = LINK_PROTOCOL,
                                   .node = span_cstr(name),
                                   .version = SPAN("0.1"),
                                   .incarnation = SPAN("i1"),
                                   .committed = at,
                                   .serving = at,
                                   .workers = 2 };
}

static void report(const char *name, uint64_t epoch, uint64_t generation, uint64_t directory, int64_t now_ms)
{
    const struct fetch_request r = report_of(name, epoch, generation, directory);
    assert_int_equal(nodes_report(nodes, &r, now_ms), OK);
}

static const char *json(uint64_t epoch, uint64_t generation, int64_t now_ms)
{
    struct json_writer w;
    buf_clear(&text);
    json_writer_init(&w, &text);
    nodes_json(nodes, epoch, generation, now_ms, &w);
    assert_int_equal(json_writer_end(&w), OK);
    return buf_cstr(&text);
}

static unsigned behind(uint64_t epoch, uint64_t generation, uint64_t directory, int64_t now_ms, const char *names)
{
    struct json_writer w;
    buf_clear(&text);
    json_writer_init(&w, &text);
    const unsigned count = nodes_behind(nodes, epoch, generation, directory, now_ms, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_string_equal(buf_cstr(&text), names);
    return count;
}

static void what_is_news_is_told_once(void **state)
{
    (void)state;
    struct heard heard = { .count = 0 };
    const struct event_sink sink = { .happened = heard_take, .user = &heard };
    nodes_tell(nodes, &sink);
    struct fetch_request r = report_of("a", 1, 5, 3);
    assert_int_equal(nodes_report(nodes, &r, 1000), OK);
    assert_heard(&heard, "");
    struct nack nacks[] = { { .kind = OBJECT_HEAD, .epoch = 1, .seq = 6, .reason = SPAN("crashed"), .at_ms = 1500 },
                            { .kind = OBJECT_ARTIFACT, .epoch = 1, .seq = 2, .reason = SPAN("corrupt") } };
    r.nacks = nacks;
    r.nack_count = 1;
    assert_int_equal(nodes_report(nodes, &r, 2000), OK);
    assert_heard(&heard, "node a|refuses head 6|crashed|\n");
    r.nack_count = 2;
    assert_int_equal(nodes_report(nodes, &r, 3000), OK);
    assert_heard(&heard, "node a|refuses artifact 2|corrupt|\n");
    r.nack_count = 0;
    r.pinned = true;
    assert_int_equal(nodes_report(nodes, &r, 4000), OK);
    assert_heard(&heard, "node a|is pinned: it takes no tables||\n");
    r.pinned = false;
    r.incarnation = SPAN("i2");
    assert_int_equal(nodes_report(nodes, &r, 5000), OK);
    assert_heard(&heard, "node a|started anew|0.1|\nnode a|is pinned no more||\n");
    nodes_watch(nodes, 5000 + NODE_SILENT_AFTER_MS);
    assert_heard(&heard, "");
    nodes_watch(nodes, 5001 + NODE_SILENT_AFTER_MS);
    nodes_watch(nodes, 9000 + NODE_SILENT_AFTER_MS);
    assert_heard(&heard, "node a|is silent|not heard of for 45 s|\n");
    assert_int_equal(nodes_report(nodes, &r, 10000 + NODE_SILENT_AFTER_MS), OK);
    assert_heard(&heard, "node a|is heard again||\n");
    nodes_tell(nodes, NULL);
}

static void who_is_behind(void **state)
{
    (void)state;
    report("a", 1, 5, 3, 1000);
    report("b", 1, 4, 3, 1000);
    report("c", 1, 5, 2, 1000);
    report("d", 2, 9, 9, 1000);
    assert_int_equal(behind(1, 5, 3, 2000, "[\"b\",\"c\",\"d\"]"), 3);
    report("b", 1, 6, 3, 2000);
    assert_int_equal(behind(1, 5, 3, 2000, "[\"c\",\"d\"]"), 2);
    /* Those not heard of for long are not waited for. */
    assert_int_equal(behind(1, 7, 3, 1001 + NODE_SILENT_AFTER_MS, "[\"b\"]"), 1);
}

static void states_and_nacks(void **state)
{
    struct nack nack = { .kind = OBJECT_HEAD, .epoch = 1, .seq = 6, .reason = SPAN("crashed"), .at_ms = 9 };
    struct span missing = SPAN("openai-a");
    (void)state;
    struct fetch_request r = report_of("n1", 1, 5, 1);
    r.nacks = &nack;
    r.nack_count = 1;
    r.unresolved_credentials = (struct span_list){ .items = &missing, .count = 1 };
    assert_int_equal(nodes_report(nodes, &r, 1000), OK);
    assert_non_null(strstr(json(1, 6, 1000), "\"state\":\"refusing\""));
    assert_non_null(strstr(buf_cstr(&text), "\"reason\":\"crashed\""));
    assert_non_null(strstr(buf_cstr(&text), "\"unresolved_credentials\":[\"openai-a\"]"));
    report("n1", 1, 5, 1, 2000); /* the next report replaces all of it */
    assert_non_null(strstr(json(1, 6, 2000), "\"state\":\"behind\""));
    assert_null(strstr(buf_cstr(&text), "crashed"));
    assert_null(strstr(buf_cstr(&text), "openai-a"));
    assert_non_null(strstr(json(1, 5, 2000), "\"state\":\"current\""));
    assert_non_null(strstr(json(2, 1, 2000), "\"state\":\"other epoch\""));
    assert_non_null(strstr(json(1, 5, 2001 + NODE_SILENT_AFTER_MS), "\"state\":\"silent\""));
    assert_string_equal(json(1, 5, 2001 + (int64_t)NODE_FORGOTTEN_AFTER_MS), "[]");
    r = report_of("n1", 1, 4, 1);
    r.pinned = true;
    assert_int_equal(nodes_report(nodes, &r, 3000), OK);
    assert_non_null(strstr(json(1, 5, 3000), "\"state\":\"pinned\""));
}

static void clocks(void **state)
{
    static const struct {
        int64_t told, now;
        const char *said;
    } cases[] = { { 0, 5000, "\"clock_skew_ms\":0," },
                  { 3000, 5000, "\"clock_skew_ms\":-2000," },
                  { 9000, 5000, "\"clock_skew_ms\":4000," },
                  { INT64_MIN, 5000, "\"clock_skew_ms\":0," },
                  { INT64_MAX, -1, "\"clock_skew_ms\":0," } };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fetch_request r = report_of("n1", 1, 5, 1);
        r.clock_ms = cases[i].told;
        assert_int_equal(nodes_report(nodes, &r, cases[i].now), OK);
        if (!strstr(json(1, 5, cases[i].now), cases[i].said))
            fail_msg("%s", buf_cstr(&text));
    }
}

static void names_are_bounded(void **state)
{
    static char name[NAME_BYTES_MAX + 2];
    const char *const bad[] = { "", "a b", "new\nline", "\x80", "tab\t" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const struct fetch_request r = report_of(bad[i], 1, 1, 1);
        assert_int_equal(nodes_report(nodes, &r, 1), ERR_INVALID);
    }
    memset(name, 'n', NAME_BYTES_MAX + 1);
    struct fetch_request r = report_of(name, 1, 1, 1);
    assert_int_equal(nodes_report(nodes, &r, 1), ERR_INVALID);
    r.node.len = NAME_BYTES_MAX;
    assert_int_equal(nodes_report(nodes, &r, 1), OK);
}

/* Names that come and go (pods) make room for new ones once they are forgotten, never before. */
static void their_number_is_bounded(void **state)
{
    char name[32];
    (void)state;
    for (unsigned i = 0; i < NODES_MAX; i++) {
        snprintf(name, sizeof(name), "pod-%u", i);
        report(name, 1, 1, 1, i < 10 ? 1000 : 5000);
    }
    const struct fetch_request r = report_of("one-more", 1, 1, 1);
    assert_int_equal(nodes_report(nodes, &r, 5000), ERR_TOO_MANY);
    assert_int_equal(nodes_report(nodes, &r, 1001 + (int64_t)NODE_FORGOTTEN_AFTER_MS), OK);
    assert_int_equal(nodes_adopt(nodes, SPAN("one-more"), 2), OK);
    assert_int_equal(nodes_adopt(nodes, SPAN("pod-9"), 2), ERR_NOT_FOUND);
    assert_int_equal(nodes_adopt(nodes, SPAN("pod-10"), 2), OK);
}

static void adopting(void **state)
{
    (void)state;
    report("a", 1, 1, 1, 1);
    assert_int_equal(nodes_adopted(nodes, SPAN("a")), 0);
    assert_int_equal(nodes_adopt(nodes, SPAN("b"), 2), ERR_NOT_FOUND);
    assert_int_equal(nodes_adopt(nodes, SPAN("a"), 2), OK);
    assert_int_equal(nodes_adopted(nodes, SPAN("a")), 2);
    assert_int_equal(nodes_adopted(nodes, SPAN("b")), 0);
    assert_int_equal(nodes_adopt(nodes, SPAN(""), 3), OK);
    assert_int_equal(nodes_adopted(nodes, SPAN("a")), 3);
    report("b", 1, 1, 1, 1); /* heard of later: allowed too */
    assert_int_equal(nodes_adopted(nodes, SPAN("b")), 3);
    assert_int_equal(nodes_adopt(nodes, SPAN("a"), 4), OK);
    assert_int_equal(nodes_adopt(nodes, SPAN(""), 3), OK); /* said again at each refresh: takes nothing back */
    assert_int_equal(nodes_adopted(nodes, SPAN("a")), 4);
}

static void each_allocation_fails(void **state)
{
    (void)state;
    for (uint64_t k = 0; k < 40; k++) {
        struct nodes *made;
        struct fetch_request r = report_of("a", 1, 1, 1);
        fault_arm(FAULT_ALLOC, k, 1);
        enum err err = nodes_new(&made);
        if (err == OK) {
            err = nodes_report(made, &r, 1);
            fault_disarm_all();
            assert_true(err == OK || err == ERR_NOMEM);
            struct nodes *kept = nodes;
            nodes = made;
            json(1, 1, 1); /* half a report is still a report that can be shown */
            report("a", 1, 1, 1, 2);
            nodes = kept;
            nodes_free(made);
        }
        fault_disarm_all();
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(who_is_behind),
        TEST(states_and_nacks),
        TEST(clocks),
        TEST(what_is_news_is_told_once),
        TEST(states_and_nacks),
        TEST(clocks),
        TEST(names_are_bounded),
        TEST(their_number_is_bounded),
        TEST(adopting),
        TEST(each_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
