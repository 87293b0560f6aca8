#include "controlplane/evidence/prices.h"
#include "common/arena.h"
#include "common/fault.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define HOUR 3600000LL

struct row {
    const char *name;
    int64_t input, output;
};

static struct prices *prices;

static int setup(void **state)
{
    (void)state;
    return prices_new(&prices);
}

static int teardown(void **state)
{
    (void)state;
    fault_disarm_all();
    prices_free(prices);
    return 0;
}

static struct catalog_entry entry(const char *name, int64_t input, int64_t output)
{
    return (struct catalog_entry){ .name = span_cstr(name),
                                   .price = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = input, .output = output },
                                   .context_tokens = 1000,
                                   .deprecated_on = SPAN("") };
}

static enum err feed(bool full, uint64_t base, const struct row *rows, uint32_t count, int64_t now_ms)
{
    struct catalog_entry entries[64];
    for (uint32_t i = 0; i < count; i++)
        entries[i] = entry(rows[i].name, rows[i].input, rows[i].output);
    const struct evidence_report report = {
        .prices = entries, .price_count = count, .price_full = full, .price_base = base, .price_origin = SPAN("test")
    };
    return prices_take(prices, &report, now_ms);
}

static void ship(const struct row *rows, uint32_t count)
{
    struct catalog_entry entries[64];
    for (uint32_t i = 0; i < count; i++)
        entries[i] = entry(rows[i].name, rows[i].input, rows[i].output);
    assert_int_equal(prices_ship(prices, entries, count), OK);
}

#define assert_price(name_, source_, input_)                                                                           \
    do {                                                                                                               \
        struct price price_;                                                                                           \
        enum price_source got_;                                                                                        \
        bool stale_;                                                                                                   \
        assert_true(prices_find(prices, span_cstr(name_), HOUR, &price_, &got_, &stale_));                             \
        assert_int_equal(got_, source_);                                                                               \
        assert_int_equal(price_.input, input_);                                                                        \
    } while (0)

static void precedence(void **state)
{
    (void)state;
    const struct price dear = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 900, .output = 900 };
    ship((const struct row[]){ { "a", 100, 200 }, { "b", 100, 200 } }, 2);
    uint64_t version = prices_version(prices);
    assert_true(version > 0);
    assert_price("a", PRICE_SOURCE_BOOK, 100);
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 150, 200 }, { "c", 7, 7 } }, 2, 1), OK);
    assert_price("a", PRICE_SOURCE_FEED, 150);
    assert_price("b", PRICE_SOURCE_BOOK, 100);
    assert_price("c", PRICE_SOURCE_FEED, 7);
    assert_int_equal(prices_version(prices), version + 1);
    assert_int_equal(prices_set(prices, SPAN("a"), &dear, 5, SPAN("ann")), OK);
    assert_price("a", PRICE_SOURCE_SET, 900);
    assert_int_equal(prices_version(prices), version + 2);
    assert_int_equal(prices_unset(prices, SPAN("a")), OK);
    assert_int_equal(prices_unset(prices, SPAN("a")), ERR_NOT_FOUND);
    assert_price("a", PRICE_SOURCE_FEED, 150);
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 150, 200 }, { "c", 7, 7 } }, 2, 2), OK);
    assert_int_equal(prices_version(prices), version + 3); /* the same again is no change */
    const struct policy_book *book = prices_book(prices);
    assert_int_equal(book->version, prices_version(prices));
    assert_non_null(book->find(book->user, SPAN("b")));
    assert_null(book->find(book->user, SPAN("d")));
    assert_true(span_eq(book->at(book->user, 2)->name, SPAN("c")));
    assert_null(book->at(book->user, 3));
    ship((const struct row[]){ { "a", 100, 200 }, { "b", 100, 200 } }, 2);
    assert_int_equal(prices_version(prices), version + 3); /* the same book is no change either */
    ship((const struct row[]){ { "a", 100, 200 }, { "b", 101, 200 } }, 2);
    assert_int_equal(prices_version(prices), version + 4);
}

static void differences_need_their_base(void **state)
{
    (void)state;
    assert_int_equal(feed(false, 0, (const struct row[]){ { "a", 1, 1 } }, 1, 1), ERR_STALE);
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 10, 10 }, { "b", 10, 10 }, { "c", 10, 10 } }, 3, 1),
                     OK);
    uint64_t base = prices_base(prices);
    assert_int_equal(feed(false, base + 1, (const struct row[]){ { "a", 12, 10 } }, 1, 2), ERR_STALE);
    assert_price("a", PRICE_SOURCE_FEED, 10);
    assert_int_equal(feed(false, base, (const struct row[]){ { "a", 12, 10 } }, 1, 2), OK);
    assert_price("a", PRICE_SOURCE_FEED, 12);
    assert_int_equal(feed(false, base, (const struct row[]){ { "a", 11, 10 } }, 1, 2), ERR_STALE); /* repeated */
    const struct span gone[] = { SPAN("c") };
    const struct evidence_report removal = { .price_removed = { gone, 1 }, .price_base = prices_base(prices) };
    assert_int_equal(prices_take(prices, &removal, 3), OK);
    assert_null(prices_book(prices)->find(prices, SPAN("c")));
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 1, 1 }, { "a", 2, 2 } }, 2, 4), ERR_INVALID);
}

static void absurd_entries_are_held(void **state)
{
    (void)state;
    static const struct row good[] = {
        { "a", 100, 200 }, { "b", 100, 200 }, { "c", 100, 200 }, { "d", 100, 200 }, { "e", 0, 200 }
    };
    assert_int_equal(feed(true, 0, good, 5, 1), OK);
    uint64_t version = prices_version(prices);
    /* zero; more than ten times; less than a tenth; exactly ten times and a tenth are believed */
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "a", 100, 0 } }, 1, 2), OK);
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "b", 1001, 200 } }, 1, 2), OK);
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "c", 9, 200 } }, 1, 2), OK);
    assert_int_equal(prices_held(prices), 3);
    assert_int_equal(prices_version(prices), version);
    assert_price("b", PRICE_SOURCE_FEED, 100);
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "d", 1000, 20 } }, 1, 2), OK);
    assert_price("d", PRICE_SOURCE_FEED, 1000);
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "e", 50, 200 } }, 1, 2), OK);
    assert_price("e", PRICE_SOURCE_FEED, 50); /* from zero: not judged */
    /* a credible figure ends the hold, and so does the old one */
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "a", 110, 200 } }, 1, 3), OK);
    assert_price("a", PRICE_SOURCE_FEED, 110);
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "b", 100, 200 } }, 1, 3), OK);
    assert_int_equal(prices_held(prices), 1);
    uint32_t count = 0;
    assert_int_equal(prices_accept(prices, SPAN("b"), 4, &count), ERR_NOT_FOUND);
    assert_int_equal(prices_accept(prices, SPAN("c"), 4, &count), OK);
    assert_int_equal(count, 1);
    assert_price("c", PRICE_SOURCE_FEED, 9);
    assert_int_equal(prices_held(prices), 0);
}

/* Twenty entries a00..a19 at 100, changed by `alter`. */
static uint32_t twenty(struct row *rows, char (*names)[8])
{
    for (uint32_t i = 0; i < 20; i++) {
        snprintf(names[i], sizeof names[i], "a%02u", i);
        rows[i] = (struct row){ names[i], 100, 200 };
    }
    return 20;
}

static void absurd_feeds_are_held_whole(void **state)
{
    (void)state;
    struct row rows[64];
    char names[64][8];
    uint32_t n = twenty(rows, names), count = 0;
    assert_int_equal(feed(true, 0, rows, n, 1), OK);
    uint64_t version = prices_version(prices);
    /* empty */
    assert_int_equal(feed(true, 0, rows, 0, 2), OK);
    assert_int_equal(prices_held(prices), 20);
    assert_price("a00", PRICE_SOURCE_FEED, 100);
    /* back again: nothing is held, nothing was changed */
    assert_int_equal(feed(true, 0, rows, n, 3), OK);
    assert_int_equal(prices_held(prices), 0);
    assert_int_equal(prices_version(prices), version);
    /* half, with a believable change in it: that is held too */
    rows[0].input = 110;
    assert_int_equal(feed(true, 0, rows, 10, 4), OK);
    assert_int_equal(prices_held(prices), 11);
    assert_price("a00", PRICE_SOURCE_FEED, 100);
    /* one more than half is believed */
    assert_int_equal(feed(true, 0, rows, 11, 5), OK);
    assert_int_equal(prices_held(prices), 0);
    assert_price("a00", PRICE_SOURCE_FEED, 110);
    rows[0].input = 100;
    assert_int_equal(feed(true, 0, rows, n, 6), OK);
    /* a fifth changed by more than twice is believed, one more is not; nor is anything else in that batch */
    version = prices_version(prices);
    for (uint32_t i = 0; i < 4; i++)
        rows[i].input = 201;
    assert_int_equal(feed(true, 0, rows, n, 7), OK);
    assert_int_equal(prices_held(prices), 0);
    for (uint32_t i = 5; i < 10; i++)
        rows[i].output = 99;
    rows[19].input = 101;
    assert_int_equal(feed(true, 0, rows, n, 8), OK);
    assert_int_equal(prices_held(prices), 6);
    assert_price("a19", PRICE_SOURCE_FEED, 100);
    assert_int_equal(prices_accept(prices, SPAN(""), 9, &count), OK);
    assert_int_equal(count, 6);
    assert_price("a19", PRICE_SOURCE_FEED, 101);
    assert_int_equal(prices_version(prices), version + 2);
    /* x1000, told as a difference */
    for (uint32_t i = 0; i < n; i++)
        rows[i].input *= 1000;
    assert_int_equal(feed(false, prices_base(prices), rows, n, 10), OK);
    assert_int_equal(prices_held(prices), 20);
    assert_price("a19", PRICE_SOURCE_FEED, 101);
}

static void first_feed_is_held_against_the_shipped_book(void **state)
{
    (void)state;
    struct row rows[64];
    char names[64][8];
    uint32_t n = twenty(rows, names);
    ship(rows, n);
    for (uint32_t i = 0; i < n; i++)
        rows[i].input = rows[i].output = 0;
    rows[n] = (struct row){ "new", 5, 5 };
    assert_int_equal(feed(true, 0, rows, n + 1, 1), OK);
    assert_int_equal(prices_held(prices), 21);
    assert_price("a00", PRICE_SOURCE_BOOK, 100);
    assert_null(prices_book(prices)->find(prices, SPAN("new")));
}

static void a_dead_feed_is_stale(void **state)
{
    (void)state;
    struct price price;
    enum price_source source;
    bool stale;
    const struct evidence_report problem = { .price_problem = SPAN("line 3: cut") };
    assert_false(prices_feed_stale(prices, 100 * HOUR));
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 1, 1 } }, 1, HOUR), OK);
    assert_int_equal(prices_take(prices, &problem, 20 * HOUR), OK); /* a bad source keeps nothing fresh */
    assert_false(prices_feed_stale(prices, 25 * HOUR));
    assert_true(prices_feed_stale(prices, 25 * HOUR + 1));
    assert_true(prices_find(prices, SPAN("a"), 26 * HOUR, &price, &source, &stale));
    assert_true(stale);
    const struct evidence_report empty = { .price_base = prices_base(prices) };
    assert_int_equal(prices_take(prices, &empty, 26 * HOUR), OK);
    assert_false(prices_feed_stale(prices, 27 * HOUR));
    prices_exported(prices);
    assert_int_equal(prices_take(prices, &empty, 26 * HOUR + HOUR / 2), OK);
    assert_false(prices_dirty(prices)); /* when it was heard is not stored each time, but now and then */
    assert_int_equal(prices_take(prices, &empty, 27 * HOUR + 1), OK);
    assert_true(prices_dirty(prices));
}

static void survives_a_restart(void **state)
{
    (void)state;
    struct buf first = BUF_INIT(1u << 20), second = BUF_INIT(1u << 20), cut = BUF_INIT(1u << 20);
    const struct price dear = { .known = PRICE_INPUT | PRICE_LONG, .input = 900, .long_above = 5, .long_input = 7 };
    struct prices *again;
    ship((const struct row[]){ { "a", 100, 200 }, { "s", 3, 3 } }, 2);
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 100, 0 }, { "b", 5, 5 } }, 2, 1), OK);
    assert_int_equal(prices_set(prices, SPAN("x\"y"), &dear, 5, SPAN("ann")), OK);
    assert_true(prices_dirty(prices));
    assert_int_equal(prices_export(prices, &first), OK);
    prices_exported(prices);
    assert_false(prices_dirty(prices));
    assert_int_equal(prices_new(&again), OK);
    for (size_t n = 0; n < first.len; n++) {
        buf_clear(&cut);
        assert_int_equal(buf_append(&cut, span_head(buf_span(&first), n)), OK);
        assert_int_equal(prices_import(again, buf_span(&cut)), ERR_CORRUPT);
    }
    assert_int_equal(prices_version(again), 0);
    assert_int_equal(prices_import(again, buf_span(&first)), OK);
    assert_int_equal(prices_export(again, &second), OK);
    assert_true(span_eq(buf_span(&first), buf_span(&second)));
    assert_int_equal(prices_version(again), prices_version(prices));
    assert_int_equal(prices_held(again), 1);
    prices_free(prices);
    prices = again;
    ship((const struct row[]){ { "a", 100, 200 }, { "s", 3, 3 } }, 2);
    assert_price("x\"y", PRICE_SOURCE_SET, 900);
    assert_price("a", PRICE_SOURCE_BOOK, 100);
    assert_price("b", PRICE_SOURCE_FEED, 5);
    buf_clear(&second);
    assert_int_equal(prices_export(prices, &second), OK);
    assert_true(span_eq(buf_span(&first), buf_span(&second))); /* not even the version has moved */
    buf_release(&first);
    buf_release(&second);
    buf_release(&cut);
}

static void shows_what_is_held(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(1u << 20);
    struct json_writer w;
    json_writer_init(&w, &text);
    assert_int_equal(feed(true, 0, (const struct row[]){ { "openai/a", 2500000000, 1 }, { "zz", 1, 1 } }, 2, 1), OK);
    assert_int_equal(feed(false, prices_base(prices), (const struct row[]){ { "openai/a", 0, 1 } }, 1, 2), OK);
    prices_json(prices, SPAN("openai/*"), false, HOUR, &w);
    assert_int_equal(json_writer_end(&w), OK);
    assert_non_null(strstr(buf_cstr(&text),
                           "\"quarantined\":{\"why\":\"zero where it was not\",\"at_ms\":2,\"old\":{\"input\":2.5"));
    assert_null(strstr(buf_cstr(&text), "zz"));
    buf_clear(&text);
    json_writer_init(&w, &text);
    prices_json(prices, SPAN(""), true, HOUR, &w);
    assert_non_null(strstr(buf_cstr(&text), "zz"));
    assert_null(strstr(buf_cstr(&text), "openai/a"));
    buf_clear(&text);
    json_writer_init(&w, &text);
    json_object_open(&w);
    prices_json_summary(prices, HOUR, &w);
    json_object_close(&w);
    assert_non_null(strstr(buf_cstr(&text), "\"quarantined\":1"));
    buf_release(&text);
}

static void no_memory_changes_nothing(void **state)
{
    (void)state;
    enum err err = ERR_NOMEM;
    assert_int_equal(feed(true, 0, (const struct row[]){ { "a", 10, 10 } }, 1, 1), OK);
    for (uint64_t n = 0; err != OK; n++) {
        assert_true(n < 50);
        fault_arm(FAULT_ALLOC, n, 1);
        err = feed(false, 1, (const struct row[]){ { "a", 12, 10 }, { "b", 3, 3 } }, 2, 2);
        fault_disarm_all();
        if (!err)
            break;
        assert_int_equal(err, ERR_NOMEM);
        assert_price("a", PRICE_SOURCE_FEED, 10);
        assert_null(prices_book(prices)->find(prices, SPAN("b")));
        assert_int_equal(prices_base(prices), 1);
    }
    assert_price("a", PRICE_SOURCE_FEED, 12);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(precedence),
        TEST(differences_need_their_base),
        TEST(absurd_entries_are_held),
        TEST(absurd_feeds_are_held_whole),
        TEST(first_feed_is_held_against_the_shipped_book),
        TEST(a_dead_feed_is_stale),
        TEST(survives_a_restart),
        TEST(shows_what_is_held),
        TEST(no_memory_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
