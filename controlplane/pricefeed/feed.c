#include "controlplane/pricefeed/feed.h"
#include "common/digest.h"
#include "common/log.h"
#include "proto/channel.h"
#include "proto/wire.h"

void feed_init(struct feed *feed, const char *address, const char *origin)
{
    *feed = (struct feed){ .address = address, .origin = origin };
    random_id("", sizeof feed->incarnation - 1, feed->incarnation);
    arena_init(&feed->arena, CATALOG_ARENA_MAX);
}

void feed_release(struct feed *feed)
{
    arena_release(&feed->arena);
}

/* ---- differences ---- */

static bool same_entry(const struct catalog_entry *a, const struct catalog_entry *b)
{
    const struct price *p = &a->price, *q = &b->price;
    return p->known == q->known && p->input == q->input && p->output == q->output && p->cache_read == q->cache_read &&
           p->cache_write == q->cache_write && p->reasoning == q->reasoning && p->request == q->request &&
           p->long_above == q->long_above && p->long_input == q->long_input && p->long_output == q->long_output &&
           p->long_cache_read == q->long_cache_read && a->context_tokens == b->context_tokens &&
           a->output_tokens_max == b->output_tokens_max && a->capabilities == b->capabilities &&
           a->capabilities_known == b->capabilities_known && span_eq(a->deprecated_on, b->deprecated_on);
}

enum err feed_compare(struct arena *arena, const struct catalog *before, const struct catalog *after,
                      struct feed_difference *ret)
{
    struct catalog_entry *changed = ARENA_ARRAY(arena, (size_t)after->count + 1, struct catalog_entry);
    struct span *removed = ARENA_ARRAY(arena, (size_t)before->count + 1, struct span);
    uint32_t i = 0, k = 0, changed_count = 0, removed_count = 0;
    if (!changed || !removed)
        return ERR_NOMEM;
    while (i < before->count || k < after->count) {
        int order = i == before->count  ? 1
                    : k == after->count ? -1
                                        : span_cmp(before->entries[i].name, after->entries[k].name);
        if (order < 0) {
            removed[removed_count++] = before->entries[i++].name;
            continue;
        }
        if (order > 0 || !same_entry(&before->entries[i], &after->entries[k]))
            changed[changed_count++] = after->entries[k];
        i += order == 0;
        k++;
    }
    *ret = (struct feed_difference){ changed, changed_count, { removed, removed_count } };
    return OK;
}

/* ---- telling ---- */

static enum err ask(struct feed *feed, struct evidence_report *report, char *why, size_t why_bytes, uint64_t *ret_base)
{
    struct buf message = BUF_INIT(FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES), answer = BUF_INIT(FRAME_BYTES_MAX);
    struct evidence_reply *reply;
    struct arena arena;
    arena_init(&arena, 64u << 20);
    report->protocol = LINK_PROTOCOL;
    report->source = EVIDENCE_FROM_PRICEFEED;
    report->sender = SPAN("pricefeed");
    report->incarnation = span_cstr(feed->incarnation);
    report->price_origin = span_cstr(feed->origin);
    report->seq = feed->seq + 1;
    enum err err = wire_encode_evidence_report(report, &message);
    if (!err)
        err = channel_ask(feed->address, NULL, buf_span(&message), FEED_ASK_TIMEOUT_MS, &answer);
    if (!err)
        err = wire_decode_evidence_reply(&arena, buf_span(&answer), &reply);
    if (err) {
        snprintf(why, why_bytes, "the control plane did not take it: %s", err_name(err));
    } else {
        feed->seq++;
        *ret_base = reply->price_base;
        if (reply->error.len > 0) {
            snprintf(why, why_bytes, "the control plane refused it: " SPAN_FMT, SPAN_ARG(span_head(reply->error, 300)));
            err = ERR_DENIED;
        }
    }
    arena_release(&arena);
    buf_release(&message);
    buf_release(&answer);
    return err;
}

enum err feed_tell_problem(struct feed *feed, const char *problem)
{
    char why[400];
    uint64_t base;
    struct evidence_report report = { .price_problem = span_cstr(problem), .price_base = feed->base };
    return ask(feed, &report, why, sizeof why, &base);
}

static enum err tell_whole(struct feed *feed, const struct catalog *catalog, char *why, size_t why_bytes)
{
    uint64_t base = 0;
    struct evidence_report report = { .prices = catalog->entries, .price_count = catalog->count, .price_full = true };
    enum err err = ask(feed, &report, why, why_bytes, &base);
    feed->base = err ? 0 : base;
    if (!err)
        log_info("prices.whole", LOG_U64("entries", catalog->count), LOG_U64("base", base));
    return err;
}

/* ERR_STALE: the control plane holds something else; it needs everything. */
static enum err tell_difference(struct feed *feed, const struct feed_difference *d, char *why, size_t why_bytes)
{
    uint64_t base = 0;
    struct evidence_report report = { .prices = (struct catalog_entry *)(uintptr_t)d->changed,
                                      .price_count = d->changed_count,
                                      .price_removed = d->removed,
                                      .price_base = feed->base };
    bool empty = d->changed_count == 0 && d->removed.count == 0;
    enum err err = ask(feed, &report, why, why_bytes, &base);
    if (!err && (base == 0 || (empty && base != feed->base)))
        err = ERR_STALE;
    if (!err && !empty)
        log_info("prices.changed", LOG_U64("changed", d->changed_count), LOG_U64("removed", d->removed.count),
                 LOG_U64("base", base));
    feed->base = err ? 0 : base; /* unknown whether it was taken: everything next time */
    return err;
}

enum err feed_tell(struct feed *feed, struct span text, char *why, size_t why_bytes)
{
    struct arena arena;
    struct catalog catalog;
    const char *bad = NULL;
    arena_init(&arena, CATALOG_ARENA_MAX);
    enum err err = catalog_read(&arena, text, &catalog, &bad);
    if (err) {
        snprintf(why, why_bytes, "%s", bad);
        if (feed_tell_problem(feed, why) != OK)
            log_warn("problem.untold", LOG_STR("why", why));
        arena_release(&arena);
        return err;
    }
    struct feed_difference difference;
    err = ERR_STALE;
    if (feed->base != 0) {
        err = feed_compare(&arena, &feed->held, &catalog, &difference);
        if (!err)
            err = tell_difference(feed, &difference, why, why_bytes);
    }
    if (err == ERR_STALE)
        err = tell_whole(feed, &catalog, why, why_bytes);
    if (err) {
        arena_release(&arena);
        return err;
    }
    arena_release(&feed->arena);
    feed->arena = arena;
    feed->held = catalog;
    return OK;
}
