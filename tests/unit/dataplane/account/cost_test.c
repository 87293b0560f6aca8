#include "dataplane/account/cost.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define USD(dollars_per_million_tokens) ((int64_t)((dollars_per_million_tokens)*1e9 + 0.5))

/* Public list prices, US dollars per million tokens. */
static const struct price gpt_4o = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ,
                                     .input = USD(2.50),
                                     .cache_read = USD(1.25),
                                     .output = USD(10.00) };
static const struct price gpt_4o_mini = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ,
                                          .input = USD(0.15),
                                          .cache_read = USD(0.075),
                                          .output = USD(0.60) };
static const struct price o3_mini = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ,
                                      .input = USD(1.10),
                                      .cache_read = USD(0.55),
                                      .output = USD(4.40) };
static const struct price claude_sonnet_4 = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ |
                                                       PRICE_CACHE_WRITE | PRICE_LONG,
                                              .input = USD(3.00),
                                              .cache_read = USD(0.30),
                                              .cache_write = USD(3.75),
                                              .output = USD(15.00),
                                              .long_above = 200000,
                                              .long_input = USD(6.00),
                                              .long_output = USD(22.50),
                                              .long_cache_read = USD(0.60) };
static const struct price gemini_2_5_pro = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ | PRICE_LONG,
                                             .input = USD(1.25),
                                             .cache_read = USD(0.125),
                                             .output = USD(10.00),
                                             .long_above = 200000,
                                             .long_input = USD(2.50),
                                             .long_output = USD(15.00),
                                             .long_cache_read = USD(0.25) };
static const struct price deepseek_chat = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_CACHE_READ,
                                            .input = USD(0.28),
                                            .cache_read = USD(0.028),
                                            .output = USD(0.42) };

static void assert_cost(const struct price *price, uint32_t discount_ppm, struct usage usage, int64_t list_nano,
                        int64_t charged_nano)
{
    usage.known = true;
    struct cost cost = cost_of(price, discount_ppm, &usage);
    assert_int_equal(cost.list_nano, list_nano);
    assert_int_equal(cost.charged_nano, charged_nano);
}

static void six_real_models_cost_what_a_pencil_says(void **state)
{
    (void)state;
    /* 2,006 in, of which 1,920 cached; 300 out.
     *    86 x 2.50 =   215.00
     * 1,920 x 1.25 = 2,400.00
     *   300 x 10   = 3,000.00   sum 5,615.00 dollars per million = 5,615,000 nano-dollars = $0.005615 */
    assert_cost(&gpt_4o, 0, (struct usage){ .input = 2006, .cached = 1920, .output = 300 }, 5615000, 5615000);
    /* 1,234 x 0.15 = 185.10; 567 x 0.60 = 340.20; sum 525.30 = 525,300 nano; 12% off: 462,264 */
    assert_cost(&gpt_4o_mini, 120000, (struct usage){ .input = 1234, .output = 567 }, 525300, 462264);
    /* Reasoning is within the output and costs the same: 75 x 1.10 = 82.50; 1,186 x 4.40 = 5,218.40; sum 5,300.90 */
    assert_cost(&o3_mini, 0, (struct usage){ .input = 75, .output = 1186, .reasoning = 1024 }, 5300900, 5300900);
    /* 21 plain x 3 = 63; 1,800 read x 0.30 = 540; 230 written x 3.75 = 862.50; 393 out x 15 = 5,895; sum 7,360.50 */
    assert_cost(&claude_sonnet_4, 0, (struct usage){ .input = 2051, .cached = 1800, .cache_write = 230, .output = 393 },
                7360500, 7360500);
    /* 200,000 is not above 200,000: 200,000 x 1.25 = 250,000; 500 x 10 = 5,000; sum 255,000 */
    assert_cost(&gemini_2_5_pro, 0, (struct usage){ .input = 200000, .output = 500 }, 255000000, 255000000);
    /* 360 missed x 0.28 = 100.80; 640 hit x 0.028 = 17.92; 123 x 0.42 = 51.66; sum 170.38 */
    assert_cost(&deepseek_chat, 0, (struct usage){ .input = 1000, .cached = 640, .output = 123 }, 170380, 170380);
}

static void a_long_prompt_is_billed_wholly_at_the_long_tier(void **state)
{
    (void)state;
    /* 200,001 x 2.50 = 500,002.50; 500 x 15 = 7,500; sum 507,502.50 */
    assert_cost(&gemini_2_5_pro, 0, (struct usage){ .input = 200001, .output = 500 }, 507502500, 507502500);
    /* 150,001 x 2.50 = 375,002.50; 50,000 cached x 0.25 = 12,500; 500 x 15 = 7,500; sum 395,002.50 */
    assert_cost(&gemini_2_5_pro, 0, (struct usage){ .input = 200001, .cached = 50000, .output = 500 }, 395002500,
                395002500);
    /* The tier names no cache-write price: it grows as input does, 3.75 x 6 / 3 = 7.50 (which is Anthropic's figure).
     * 100,000 x 6 = 600,000; 100,000 x 0.60 = 60,000; 50,000 x 7.50 = 375,000; 1,000 x 22.50 = 22,500; sum 1,057,500 */
    assert_cost(&claude_sonnet_4, 0,
                (struct usage){ .input = 250000, .cached = 100000, .cache_write = 50000, .output = 1000 }, 1057500000,
                1057500000);
    struct price no_read = claude_sonnet_4;
    no_read.long_cache_read = 0; /* 0.30 x 6 / 3 = 0.60: the same */
    assert_cost(&no_read, 0, (struct usage){ .input = 250000, .cached = 100000, .cache_write = 50000, .output = 1000 },
                1057500000, 1057500000);
}

static void rounding_happens_once_and_upwards(void **state)
{
    (void)state;
    struct price half = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = 37500000, .output = 37500000 };
    /* 37.5 nano-dollars a token: one costs 38, but one in and one out cost 75 and not 76. */
    assert_cost(&half, 0, (struct usage){ .input = 1 }, 38, 38);
    assert_cost(&half, 0, (struct usage){ .input = 1, .output = 1 }, 75, 75);
    /* The discount works on the exact sum: 18.75 -> 19. */
    assert_cost(&half, 500000, (struct usage){ .input = 1 }, 38, 19);
    struct price tiny = { .known = PRICE_INPUT, .input = 1 };
    assert_cost(&tiny, 999999, (struct usage){ .input = 1 }, 1, 1);
    assert_cost(&tiny, 1000000, (struct usage){ .input = 1 }, 1, 0);
    assert_cost(&tiny, 0, (struct usage){ .input = 0 }, 0, 0);
}

static void absent_parts_fall_back(void **state)
{
    (void)state;
    struct price plain = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = USD(1), .output = USD(2), .cache_read = 7 };
    assert_cost(&plain, 0, (struct usage){ .input = 10, .cached = 5, .cache_write = 5, .output = 3, .reasoning = 2 },
                16000, 16000);
    struct price reasoning = plain;
    reasoning.known |= PRICE_REASONING;
    reasoning.reasoning = USD(3); /* 10 x 1 + 1 x 2 + 2 x 3 = 18 */
    assert_cost(&reasoning, 0, (struct usage){ .input = 10, .output = 3, .reasoning = 2 }, 18000, 18000);
    struct price request = plain;
    request.known |= PRICE_REQUEST;
    request.request = 5000000;
    assert_cost(&request, 0, (struct usage){ .input = 10 }, 5010000, 5010000);
    struct usage nothing = { .known = false, .input = 1000 };
    assert_int_equal(cost_of(&request, 0, &nothing).list_nano, 5000000);
}

static void absurd_figures_saturate(void **state)
{
    (void)state;
    struct price dear = { .known = PRICE_INPUT | PRICE_OUTPUT | PRICE_REQUEST | PRICE_LONG,
                          .input = INT64_MAX,
                          .output = INT64_MAX,
                          .request = INT64_MAX,
                          .long_input = INT64_MAX,
                          .long_output = INT64_MAX };
    assert_cost(&dear, 1, (struct usage){ .input = UINT64_MAX / 4, .output = UINT64_MAX / 4 }, INT64_MAX, INT64_MAX);
    assert_cost(&dear, 0, (struct usage){ .input = 1000000000, .output = 1000000000, .reasoning = 1, .cached = 7 },
                INT64_MAX, INT64_MAX);
    struct price negative = { .known = PRICE_INPUT | PRICE_OUTPUT, .input = -5, .output = USD(1) };
    assert_cost(&negative, 0, (struct usage){ .input = 1000000, .output = 1 }, 1000, 1000);
}

static void parts_greater_than_the_whole_do_not_wrap(void **state)
{
    (void)state;
    assert_cost(&gpt_4o, 0, (struct usage){ .input = 10, .cached = 50, .cache_write = 50, .output = 1, .reasoning = 9 },
                22500, 22500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_real_models_cost_what_a_pencil_says),
        cmocka_unit_test(a_long_prompt_is_billed_wholly_at_the_long_tier),
        cmocka_unit_test(rounding_happens_once_and_upwards),
        cmocka_unit_test(absent_parts_fall_back),
        cmocka_unit_test(absurd_figures_saturate),
        cmocka_unit_test(parts_greater_than_the_whole_do_not_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
