/* Any bytes as a price catalog, in all three forms: what is read holds what catalog.h promises, and the price book takes
 * it, stores it and reads it back. Seeds: tests/fuzz/seeds/catalog. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "controlplane/evidence/catalog.h"
#include "controlplane/evidence/prices.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_MAX  ((size_t)256 << 20)
#define FIGURE_MAX INT64_C(1000000000000000) /* a million dollars a million tokens */

static void check_figure(const struct price *p, uint32_t bit, int64_t figure)
{
    MUST(figure >= 0 && figure <= FIGURE_MAX);
    MUST((p->known & bit) || figure == 0);
}

static void check_catalog(const struct catalog *c)
{
    MUST(c->form >= CATALOG_LITELLM && c->form <= CATALOG_OURS && c->unpriced <= c->count);
    MUST(c->unmapped.count <= c->count && catalog_form_name(c->form)[0]);
    for (uint32_t i = 0; i < c->count; i++) {
        const struct catalog_entry *e = &c->entries[i];
        const struct price *p = &e->price;
        MUST(e->name.len > 0 && e->name.len <= NAME_BYTES_MAX);
        MUST(i == 0 || span_cmp(c->entries[i - 1].name, e->name) < 0);
        MUST(e->deprecated_on.len == 0 || e->deprecated_on.len == 10);
        check_figure(p, PRICE_INPUT, p->input);
        check_figure(p, PRICE_OUTPUT, p->output);
        check_figure(p, PRICE_CACHE_READ, p->cache_read);
        check_figure(p, PRICE_CACHE_WRITE, p->cache_write);
        check_figure(p, PRICE_REASONING, p->reasoning);
        check_figure(p, PRICE_REQUEST, p->request);
        check_figure(p, PRICE_LONG, p->long_input);
        check_figure(p, PRICE_LONG, p->long_output);
        check_figure(p, PRICE_LONG, p->long_cache_read);
    }
}

static void check_book(const struct catalog *c)
{
    struct prices *prices, *restored;
    struct buf stored = BUF_INIT(64u << 20), again = BUF_INIT(64u << 20);
    const struct evidence_report report = {
        .source = EVIDENCE_FROM_PRICEFEED, .prices = c->entries, .price_count = c->count, .price_full = true
    };
    MUST(prices_new(&prices) == OK && prices_new(&restored) == OK);
    MUST(prices_take(prices, &report, 1) == OK);
    MUST(prices_held(prices) == 0); /* nothing to compare with */
    MUST(prices_export(prices, &stored) == OK);
    MUST(prices_import(restored, buf_span(&stored)) == OK);
    MUST(prices_export(restored, &again) == OK);
    MUST(span_eq(buf_span(&stored), buf_span(&again)));
    buf_release(&stored);
    buf_release(&again);
    prices_free(prices);
    prices_free(restored);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct catalog catalog;
    const char *why = NULL;
    if (size > 1u << 20)
        return 0;
    arena_init(&arena, ARENA_MAX);
    if (catalog_read(&arena, span_of(data, size), &catalog, &why) == OK) {
        check_catalog(&catalog);
        check_book(&catalog);
    } else {
        MUST(why && why[0]);
    }
    arena_release(&arena);
    return 0;
}
