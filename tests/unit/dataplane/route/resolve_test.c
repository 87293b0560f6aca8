#include "dataplane/route/resolve.h"
#include "tests/unit/dataplane/route/world.h"

static struct world w;
static struct key_record key;
static struct auth_principal who;

static int setup(void **state)
{
    (void)state;
    world_init(&w);
    world_build(&w);
    key = (struct key_record){ .id = SPAN("key_1") };
    who = (struct auth_principal){ .key = &key, .team = table_team(w.table, SPAN("research")) };
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_release(&w);
    return 0;
}

static enum err resolve(const char *name, struct resolved *ret)
{
    *ret = (struct resolved){ .route = NULL };
    return resolve_name(&w.table->arms[0], &who, span_cstr(name), ret);
}

static void names_mean_routes_or_models(void **state)
{
    (void)state;
    struct resolved r;
    const struct artifact *a = w.compiled->artifact;
    assert_int_equal(resolve("chat", &r), OK);
    assert_true(r.route == &a->routes[CHAT] && !r.model && r.wish == RESOLVE_AS_TOLD);
    assert_int_equal(resolve("gpt-4o", &r), OK);
    assert_ptr_equal(r.route, &a->routes[CHAT]);
    assert_int_equal(resolve("openai/gpt-4o", &r), OK);
    assert_true(r.model == &a->models[OPENAI_4O] && !r.route);
}

static void suffixes_are_wishes_unless_the_name_has_them(void **state)
{
    (void)state;
    struct resolved r;
    assert_int_equal(resolve("bulk:floor", &r), OK);
    assert_int_equal(r.wish, RESOLVE_CHEAPEST);
    assert_int_equal(resolve("gpt-4o:nitro", &r), OK);
    assert_int_equal(r.wish, RESOLVE_FASTEST);
    assert_int_equal(resolve("chat:fast", &r), ERR_NOT_FOUND);
    assert_int_equal(resolve("chat:floor:floor", &r), ERR_NOT_FOUND);
    assert_int_equal(resolve(":floor", &r), ERR_NOT_FOUND);
    world_release(&w);
    world_init(&w);
    w.routes[CHAT].name = SPAN("chat:floor");
    w.aliases[0].target = SPAN("chat:floor");
    w.team_routes[0] = SPAN("chat*");
    world_build(&w);
    who.team = table_team(w.table, SPAN("research"));
    assert_int_equal(resolve("chat:floor", &r), OK);
    assert_int_equal(r.wish, RESOLVE_AS_TOLD);
    assert_int_equal(resolve("chat:floor:floor", &r), OK);
    assert_int_equal(r.wish, RESOLVE_CHEAPEST);
}

static void unknown_and_not_allowed_look_the_same(void **state)
{
    (void)state;
    struct resolved r;
    assert_int_equal(resolve("nothing", &r), ERR_NOT_FOUND);
    assert_int_equal(resolve("private", &r), ERR_NOT_FOUND);
    assert_int_equal(resolve("private:floor", &r), ERR_NOT_FOUND);
    assert_int_equal(resolve("azure/gpt-4o", &r), ERR_NOT_FOUND);
    assert_int_equal(resolve("llama", &r), ERR_NOT_FOUND); /* an alias gives no more than its target */
    assert_int_equal(resolve("", &r), ERR_NOT_FOUND);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    char *text = resolve_not_found_message(&arena, &w.table->arms[0], &who, SPAN("private"));
    assert_non_null(strstr(text, "'private'"));
    assert_non_null(strstr(text, "bulk, chat, gpt-4o, openai/gpt-4.1, openai/gpt-4o"));
    assert_null(strstr(text, "azure"));
    assert_non_null(strstr(resolve_not_found_message(&arena, &w.table->arms[0], &who, SPAN("chta")), "mean 'chat'"));
    char huge[5000];
    memset(huge, 'x', sizeof huge);
    text = resolve_not_found_message(&arena, &w.table->arms[0], &who, span_of(huge, sizeof huge));
    assert_true(strlen(text) < 400);
    struct span nothing[] = { SPAN("nothing") };
    key.routes = (struct span_list){ nothing, 1 };
    text = resolve_not_found_message(&arena, &w.table->arms[0], &who, SPAN("chat"));
    assert_non_null(strstr(text, "may use none"));
    arena_release(&arena);
}

static void lists_are_bounded(void **state)
{
    (void)state;
    struct resolve_entry entries[10];
    bool more = true;
    assert_int_equal(resolve_list(&w.table->arms[0], &who, entries, 10, 100, &more), 5);
    assert_false(more);
    assert_true(entries[2].kind == RESOLVE_ALIAS && entries[4].kind == RESOLVE_MODEL);
    assert_int_equal(resolve_list(&w.table->arms[0], &who, entries, 2, 100, &more), 2);
    assert_true(more);
    assert_int_equal(resolve_list(&w.table->arms[0], &who, entries, 10, 1, &more),
                     2); /* bulk, gpt-4o; azure is not ours */
    assert_true(more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_mean_routes_or_models, setup, teardown),
        cmocka_unit_test_setup_teardown(suffixes_are_wishes_unless_the_name_has_them, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_and_not_allowed_look_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_are_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
