#include "dataplane/route/breaker.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static uint64_t failures(uint64_t word, unsigned n, uint64_t now)
{
    while (n-- > 0)
        word = breaker_after(word, BREAKER_FAILURE, now);
    return word;
}

static void five_in_a_row_eject_for_thirty_seconds(void **state)
{
    (void)state;
    uint64_t word = failures(0, 4, 1000);
    assert_int_equal(breaker_state(word, 1000), BREAKER_CLOSED);
    word = failures(breaker_after(word, BREAKER_SUCCESS, 1000), 4, 1000);
    assert_int_equal(breaker_state(word, 1000), BREAKER_CLOSED);
    word = failures(word, 1, 1000);
    assert_int_equal(breaker_state(word, 30999), BREAKER_OPEN);
    assert_int_equal(breaker_state(word, 31000), BREAKER_HALF_OPEN);
    assert_int_equal(breaker_until_ms(word), 31000);
}

static void ejections_grow_and_a_success_halves_them(void **state)
{
    (void)state;
    uint64_t word = failures(0, 5, 0), now = 0;
    for (unsigned n = 2; n <= 12; n++) {
        now = breaker_until_ms(word);
        word = breaker_after(word, BREAKER_PROBE_START, now);
        word = breaker_after(word, BREAKER_PROBE_FAILURE, now + 1);
        unsigned times = n < 10 ? n : 10;
        assert_int_equal(breaker_until_ms(word), now + 1 + 30000 * times);
    }
    now = breaker_until_ms(word);
    word = breaker_after(breaker_after(word, BREAKER_PROBE_START, now), BREAKER_PROBE_SUCCESS, now);
    assert_int_equal(breaker_state(word, now), BREAKER_CLOSED);
    assert_int_equal(breaker_ejections(word), 5);
    word = failures(word, 5, now);
    assert_int_equal(breaker_until_ms(word), now + 6 * 30000);
}

static void a_lost_probe_is_replaced(void **state)
{
    (void)state;
    _Atomic uint64_t word = failures(0, 5, 0);
    assert_int_equal(breaker_enter(&word, false, 29999), BREAKER_PASS_REFUSED);
    assert_int_equal(breaker_enter(&word, false, 30000), BREAKER_PASS_PROBE);
    assert_int_equal(breaker_enter(&word, false, 30000), BREAKER_PASS_REFUSED);
    assert_int_equal(breaker_enter(&word, true, 30000), BREAKER_PASS_ORDINARY);
    assert_int_equal(breaker_enter(&word, false, 30000 + BREAKER_PROBE_LEASE_MS), BREAKER_PASS_PROBE);
    assert_false(breaker_probe_end(&word, BREAKER_PROBE_ABANDONED, 95000));
    assert_int_equal(breaker_enter(&word, false, 95000), BREAKER_PASS_PROBE);
    assert_true(breaker_probe_end(&word, BREAKER_PROBE_SUCCESS, 95001));
    assert_int_equal(breaker_enter(&word, false, 95001), BREAKER_PASS_ORDINARY);
}

static void forced_attempts_probe_early(void **state)
{
    (void)state;
    _Atomic uint64_t word = failures(0, 5, 0);
    assert_int_equal(breaker_enter(&word, true, 10), BREAKER_PASS_PROBE);
    assert_true(breaker_probe_end(&word, BREAKER_PROBE_SUCCESS, 11));
    assert_int_equal(breaker_state(word, 11), BREAKER_CLOSED);
}

static void half_of_twenty_in_ten_seconds_eject(void **state)
{
    (void)state;
    _Atomic uint64_t word = 0, window = 0;
    /* Alternating: never five in a row. */
    for (unsigned i = 0; i < 19; i++)
        assert_false(breaker_record(&word, &window, i % 2 == 0, 50000 + i));
    assert_true(breaker_record(&word, &window, true, 50020));
    assert_int_equal(breaker_state(word, 50020), BREAKER_OPEN);
    /* The same spread over a minute is no outlier. */
    word = window = 0;
    for (unsigned i = 0; i < 40; i++)
        assert_false(breaker_record(&word, &window, i % 2 == 0, 50000 + i * 1500));
    /* A third of many is not either. */
    word = window = 0;
    for (unsigned i = 0; i < 3000; i++)
        assert_false(breaker_record(&word, &window, i % 3 == 0, 50000 + i));
    assert_int_equal(breaker_state(word, 53000), BREAKER_CLOSED);
}

static void verdicts_from_before_an_ejection_change_nothing(void **state)
{
    (void)state;
    uint64_t open = failures(0, 5, 0);
    static const enum breaker_event late[] = { BREAKER_SUCCESS, BREAKER_FAILURE, BREAKER_RATE_BAD };
    for (size_t i = 0; i < ARRAY_LEN(late); i++) {
        assert_true(breaker_after(open, late[i], 100) == open);
        uint64_t probing = breaker_after(open, BREAKER_PROBE_START, 30000);
        assert_true(breaker_after(probing, late[i], 30001) == probing);
    }
}

/* An independent reading of the header, with plain fields, followed along every sequence of events and waits. */
struct model {
    unsigned phase; /* 0 closed, 1 open, 2 probing */
    unsigned in_row, n;
    uint64_t until;
};

static void model_eject(struct model *m, uint64_t now)
{
    m->n = m->n < 10 ? m->n + 1 : 10;
    *m = (struct model){ .phase = 1, .n = m->n, .until = now + 30000u * m->n };
}

static void model_step(struct model *m, enum breaker_event event, uint64_t now)
{
    if (m->phase == 0) {
        if (event == BREAKER_SUCCESS)
            m->in_row = 0;
        if ((event == BREAKER_FAILURE || event == BREAKER_PROBE_FAILURE) && ++m->in_row == 5)
            model_eject(m, now);
        else if (event == BREAKER_RATE_BAD)
            model_eject(m, now);
        return;
    }
    if (event == BREAKER_PROBE_START) {
        m->phase = 2;
        m->until = now + 60000;
    } else if (event == BREAKER_PROBE_SUCCESS) {
        *m = (struct model){ .n = m->n / 2 };
    } else if (m->phase == 2 && event == BREAKER_PROBE_FAILURE) {
        model_eject(m, now);
    } else if (m->phase == 2 && event == BREAKER_PROBE_ABANDONED) {
        m->phase = 1;
        m->until = now;
    }
}

static uint64_t visited;

static void walk(uint64_t word, struct model m, uint64_t now, unsigned depth)
{
    visited++;
    enum breaker_state expected = m.phase == 0     ? BREAKER_CLOSED
                                  : now >= m.until ? BREAKER_HALF_OPEN
                                  : m.phase == 1   ? BREAKER_OPEN
                                                   : BREAKER_PROBING;
    assert_int_equal(breaker_state(word, now), expected);
    assert_int_equal(breaker_ejections(word), m.n);
    assert_int_equal(breaker_until_ms(word), m.phase == 0 ? 0 : m.until);
    /* Whatever happened, the model is looked at again in five minutes at most. */
    assert_true(breaker_until_ms(word) <= now + 300000);
    if (depth == 0)
        return;
    for (unsigned e = 0; e < BREAKER_EVENTS; e++) {
        struct model next = m;
        model_step(&next, (enum breaker_event)e, now);
        walk(breaker_after(word, (enum breaker_event)e, now), next, now, depth - 1);
    }
    walk(word, m, now + 29999, depth - 1);
    walk(word, m, now + 30001, depth - 1);
}

static void every_sequence_of_six_events_agrees_with_a_second_reading(void **state)
{
    (void)state;
    walk(0, (struct model){ 0 }, 0, 6);
    /* From the edge of an ejection, where six events reach further. */
    walk(failures(0, 4, 7), (struct model){ .in_row = 4 }, 7, 6);
    assert_true(visited > 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(five_in_a_row_eject_for_thirty_seconds),
        cmocka_unit_test(ejections_grow_and_a_success_halves_them),
        cmocka_unit_test(a_lost_probe_is_replaced),
        cmocka_unit_test(forced_attempts_probe_early),
        cmocka_unit_test(half_of_twenty_in_ten_seconds_eject),
        cmocka_unit_test(verdicts_from_before_an_ejection_change_nothing),
        cmocka_unit_test(every_sequence_of_six_events_agrees_with_a_second_reading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
