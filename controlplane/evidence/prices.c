#include "controlplane/evidence/prices.h"
#include "common/fault.h"
#include "controlplane/evidence/prices_internal.h"

#define SWEEP_FACTOR     2
#define SWEEP_SHARE      5         /* one part in five */
#define HEARD_DIRTY_MS   3600000ll /* when the feed was heard is stored with other changes, and at least so often */
#define ORIGIN_BYTES_MAX 512u      /* a URL for people; longer ones are cut */

/* ---- rows ---- */

static const struct catalog_entry *book_find(void *user, struct span name)
{
    const struct prices_row *row = prices_row_find(user, name);
    return row && row->source != PRICE_SOURCE_NONE ? &row->entry : NULL;
}

static const struct catalog_entry *book_at(void *user, size_t i)
{
    const struct prices *prices = user;
    return i < prices->book_count ? &prices->book[i]->entry : NULL;
}

enum err prices_new(struct prices **ret)
{
    struct prices *prices = fault_calloc(1, sizeof *prices);
    if (!prices)
        return ERR_NOMEM;
    prices->view = (struct policy_book){ .user = prices, .find = book_find, .at = book_at };
    *ret = prices;
    return OK;
}

static void row_free(struct prices_row *row)
{
    free(row->set.by);
    free(row);
}

void prices_free(struct prices *prices)
{
    if (!prices)
        return;
    for (uint32_t i = 0; i < prices->count; i++)
        row_free(prices->rows[i]);
    free(prices->rows);
    free(prices->book);
    free(prices->origin);
    free(prices->problem);
    free(prices);
}

struct prices_row *prices_row_find(const struct prices *prices, struct span name)
{
    uint32_t low = 0, high = prices->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = span_cmp(prices->rows[mid]->name, name);
        if (order == 0)
            return prices->rows[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

static struct prices_row *row_new(struct span name)
{
    struct prices_row *row = fault_calloc(1, sizeof *row + name.len + 1);
    if (!row)
        return NULL;
    char *copy = (char *)(row + 1);
    memcpy(copy, name.ptr, name.len);
    row->name = span_of(copy, name.len);
    return row;
}

static enum err rows_room(struct prices *prices, uint32_t most)
{
    if (most <= prices->capacity)
        return OK;
    struct prices_row **rows = fault_realloc(prices->rows, most * sizeof(struct prices_row *));
    if (!rows)
        return ERR_NOMEM;
    prices->rows = rows;
    struct prices_row **book = fault_realloc(prices->book, most * sizeof(struct prices_row *));
    if (!book)
        return ERR_NOMEM;
    prices->book = book;
    prices->capacity = most;
    return OK;
}

static int row_order(const void *a, const void *b)
{
    const struct prices_row *const *x = a, *const *y = b;
    return span_cmp((*x)->name, (*y)->name);
}

enum err prices_rows_add(struct prices *prices, const struct span *names, uint32_t count)
{
    uint32_t before = prices->count, added = 0;
    enum err err = rows_room(prices, before + count);
    for (uint32_t i = 0; i < count && !err; i++) {
        if (prices_row_find(prices, names[i])) /* looks only at the sorted ones */
            continue;
        struct prices_row *row = row_new(names[i]);
        if (!row) {
            err = ERR_NOMEM;
            break;
        }
        prices->rows[before + added++] = row;
    }
    prices->count = before + added;
    if (added > 0)
        qsort(prices->rows, prices->count, sizeof(struct prices_row *), row_order);
    return err;
}

/* ---- what the rows come to ---- */

bool prices_equal(const struct price *a, const struct price *b)
{
    return a->known == b->known && a->input == b->input && a->output == b->output && a->cache_read == b->cache_read &&
           a->cache_write == b->cache_write && a->reasoning == b->reasoning && a->request == b->request &&
           a->long_above == b->long_above && a->long_input == b->long_input && a->long_output == b->long_output &&
           a->long_cache_read == b->long_cache_read;
}

static bool same_value(const struct prices_value *a, const struct prices_value *b)
{
    if (!a->there || !b->there)
        return a->there == b->there;
    return prices_equal(&a->price, &b->price) && a->context_tokens == b->context_tokens &&
           a->output_tokens_max == b->output_tokens_max && a->capabilities == b->capabilities &&
           a->capabilities_known == b->capabilities_known && strcmp(a->deprecated_on, b->deprecated_on) == 0;
}

/* True when requests are charged by something else than before. */
static bool settle_row(struct prices_row *row)
{
    struct price before = row->entry.price;
    enum price_source source_before = row->source;
    const struct prices_value *facts = row->feed.there ? &row->feed : &row->shipped;
    row->source = PRICE_SOURCE_NONE;
    row->entry = (struct catalog_entry){ .name = row->name,
                                         .context_tokens = facts->context_tokens,
                                         .output_tokens_max = facts->output_tokens_max,
                                         .capabilities = facts->capabilities,
                                         .capabilities_known = facts->capabilities_known,
                                         .deprecated_on = span_cstr(facts->deprecated_on) };
    if (row->set.there) {
        row->source = PRICE_SOURCE_SET;
        row->entry.price = row->set.price;
    } else if (row->feed.there && (row->feed.price.known || !row->shipped.there)) {
        row->source = PRICE_SOURCE_FEED;
        row->entry.price = row->feed.price;
    } else if (row->shipped.there) {
        row->source = PRICE_SOURCE_BOOK;
        row->entry.price = row->shipped.price;
    }
    return source_before != row->source || !prices_equal(&before, &row->entry.price);
}

void prices_settle(struct prices *prices)
{
    uint32_t kept = 0;
    bool changed = false;
    prices->book_count = 0;
    for (uint32_t i = 0; i < prices->count; i++) {
        struct prices_row *row = prices->rows[i];
        changed |= settle_row(row);
        if (row->source == PRICE_SOURCE_NONE && row->held.why == PRICES_HOLD_NONE) {
            row_free(row);
            continue;
        }
        prices->rows[kept++] = row;
        if (row->source != PRICE_SOURCE_NONE)
            prices->book[prices->book_count++] = row;
    }
    prices->count = kept;
    prices->version += changed;
    prices->view.version = prices->version;
}

static struct prices_value value_of(const struct catalog_entry *entry)
{
    struct prices_value value = { .there = true,
                                  .price = entry->price,
                                  .context_tokens = entry->context_tokens,
                                  .output_tokens_max = entry->output_tokens_max,
                                  .capabilities = entry->capabilities,
                                  .capabilities_known = entry->capabilities_known };
    size_t n = size_min(entry->deprecated_on.len, PRICES_DATE_BYTES_MAX - 1);
    if (n > 0)
        memcpy(value.deprecated_on, entry->deprecated_on.ptr, n);
    return value;
}

/* ---- the shipped book ---- */

static void hash_price(struct buf *buf, const struct prices_row *row, enum err *err)
{
    const struct price *p = &row->shipped.price;
    if (!*err && row->shipped.there)
        *err = buf_printf(buf, SPAN_FMT " %u %lld %lld %lld %lld %lld %lld %llu %lld %lld %lld\n", SPAN_ARG(row->name),
                          p->known, (long long)p->input, (long long)p->output, (long long)p->cache_read,
                          (long long)p->cache_write, (long long)p->reasoning, (long long)p->request,
                          (unsigned long long)p->long_above, (long long)p->long_input, (long long)p->long_output,
                          (long long)p->long_cache_read);
}

void prices_note_shipped(struct prices *prices)
{
    struct buf text = BUF_INIT((size_t)256 << 20);
    enum err err = OK;
    bool any = false;
    for (uint32_t i = 0; i < prices->count; i++) {
        any |= prices->rows[i]->shipped.there;
        hash_price(&text, prices->rows[i], &err);
    }
    struct sha256 hash = sha256_of(buf_span(&text));
    if (any && (err || !sha256_eq(&hash, &prices->shipped))) { /* out of memory: one version too many is harmless */
        prices->shipped = hash;
        prices->version++;
        prices->dirty = true;
    }
    prices->view.version = prices->version;
    buf_release(&text);
}

enum err prices_ship(struct prices *prices, const struct catalog_entry *entries, uint32_t count)
{
    struct span *names = fault_malloc((count ? count : 1) * sizeof *names);
    if (!names)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        names[i] = entries[i].name;
    enum err err = prices_rows_add(prices, names, count);
    free(names);
    if (err)
        return err;
    for (uint32_t i = 0; i < prices->count; i++)
        prices->rows[i]->shipped.there = false;
    for (uint32_t i = 0; i < count; i++)
        prices_row_find(prices, entries[i].name)->shipped = value_of(&entries[i]);
    uint64_t version = prices->version;
    prices_settle(prices);
    prices->version = version; /* counted by content instead: the same book at each start is no change */
    prices_note_shipped(prices);
    return OK;
}

/* ---- judging the feed ---- */

const char *prices_hold_text(enum prices_hold hold)
{
    switch (hold) {
    case PRICES_HOLD_NONE:
        return "";
    case PRICES_HOLD_ZERO:
        return "zero where it was not";
    case PRICES_HOLD_JUMP:
        return "more than ten times the last, or less than a tenth";
    case PRICES_HOLD_EMPTY:
        return "the feed has no entries any more";
    case PRICES_HOLD_HALF:
        return "the feed lost half of its entries or more";
    case PRICES_HOLD_SWEEP:
        return "more than a fifth of the feed changed by more than twice";
    case PRICES_HOLD_COUNT:
        break;
    }
    return "unknown";
}

/* Calls for each part that both prices have. */
static bool any_part(const struct price *old, const struct price *new, bool (*test)(int64_t, int64_t, int64_t),
                     int64_t factor)
{
    const struct {
        uint32_t bit;
        int64_t old, new;
    } parts[] = {
        { PRICE_INPUT, old->input, new->input },
        { PRICE_OUTPUT, old->output, new->output },
        { PRICE_CACHE_READ, old->cache_read, new->cache_read },
        { PRICE_CACHE_WRITE, old->cache_write, new->cache_write },
        { PRICE_REASONING, old->reasoning, new->reasoning },
        { PRICE_REQUEST, old->request, new->request },
        { PRICE_LONG, old->long_input, new->long_input },
        { PRICE_LONG, old->long_output, new->long_output },
    };
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if ((old->known & parts[i].bit) && (new->known &parts[i].bit) && test(parts[i].old, parts[i].new, factor))
            return true;
    }
    return false;
}

static bool became_zero(int64_t old, int64_t new, int64_t factor)
{
    (void)factor;
    return old > 0 && new == 0;
}

static bool moved(int64_t old, int64_t new, int64_t factor)
{
    return old > 0 && (new / factor > old || (new / factor == old &&new % factor > 0) || old / factor > new ||
                       (old / factor == new &&old % factor > 0));
}

/* The last price that was believed. */
static const struct prices_value *reference(const struct prices_row *row)
{
    return row->feed.there && row->feed.price.known ? &row->feed : &row->shipped;
}

static enum prices_hold judge_one(const struct prices_row *row, const struct prices_value *value)
{
    const struct prices_value *last = reference(row);
    if (!last->there || !value->there)
        return PRICES_HOLD_NONE;
    if (any_part(&last->price, &value->price, became_zero, 0))
        return PRICES_HOLD_ZERO;
    return any_part(&last->price, &value->price, moved, PRICES_JUMP) ? PRICES_HOLD_JUMP : PRICES_HOLD_NONE;
}

struct change {
    struct prices_row *row;
    struct prices_value value; /* not there: dropped */
};

/* What the feed said last of this entry, believed or not. */
static bool told(const struct prices_row *row)
{
    return row->held.why != PRICES_HOLD_NONE ? row->held.value.there : row->feed.there;
}

static enum prices_hold judge_batch(const struct prices *prices, const struct change *changes, uint32_t count)
{
    uint64_t had = 0, after = 0, swept = 0, known = 0;
    for (uint32_t i = 0; i < prices->count; i++) {
        had += prices->rows[i]->feed.there;
        after += told(prices->rows[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct prices_value *last = reference(changes[i].row);
        after = after - told(changes[i].row) + changes[i].value.there;
        known += last->there;
        swept += last->there && changes[i].value.there &&
                 (any_part(&last->price, &changes[i].value.price, moved, SWEEP_FACTOR) ||
                  any_part(&last->price, &changes[i].value.price, became_zero, 0));
    }
    if (had > 0 && after == 0)
        return PRICES_HOLD_EMPTY;
    if (had > 0 && after * 2 <= had)
        return PRICES_HOLD_HALF;
    if (swept >= PRICES_BATCH_LEAST && swept * SWEEP_SHARE > (had > 0 ? had : known))
        return PRICES_HOLD_SWEEP;
    return PRICES_HOLD_NONE;
}

static void apply(struct prices *prices, const struct change *change, enum prices_hold batch, int64_t now_ms)
{
    struct prices_row *row = change->row;
    if (same_value(&row->feed, &change->value)) {
        prices->dirty |= row->held.why != PRICES_HOLD_NONE;
        row->held.why = PRICES_HOLD_NONE;
        return;
    }
    enum prices_hold hold = batch ? batch : judge_one(row, &change->value);
    if (hold && row->held.why == hold && same_value(&row->held.value, &change->value))
        return;
    prices->dirty = true;
    row->held.why = hold;
    if (hold) {
        row->held.value = change->value;
        row->held.at_ms = now_ms;
        return;
    }
    row->feed = change->value;
    row->feed_at_ms = now_ms;
}

/* ---- taking a report ---- */

static void replace_text(char **at, struct span text)
{
    char *copy = NULL;
    if (text.len > 0) {
        text = span_head(text, ORIGIN_BYTES_MAX);
        copy = fault_malloc(text.len + 1);
        if (copy) {
            memcpy(copy, text.ptr, text.len);
            copy[text.len] = '\0';
        }
    }
    free(*at);
    *at = copy;
}

static void heard(struct prices *prices, const struct evidence_report *report, int64_t now_ms)
{
    replace_text(&prices->problem, SPAN(""));
    if (report->price_origin.len > 0)
        replace_text(&prices->origin, report->price_origin);
    if (now_ms - prices->heard_stored_ms > HEARD_DIRTY_MS)
        prices->dirty = true;
    prices->heard_at_ms = now_ms;
}

static int entry_order(const void *a, const void *b)
{
    const struct catalog_entry *const *x = a, *const *y = b;
    return span_cmp((*x)->name, (*y)->name);
}

static int name_order(const void *a, const void *b)
{
    return span_cmp(*(const struct span *)a, *(const struct span *)b);
}

struct batch {
    const struct catalog_entry **entries; /* sorted */
    struct span *names;                   /* of entries, sorted */
    struct span *removed;                 /* sorted */
    uint32_t count, removed_count;
    struct change *changes;
    uint32_t change_count;
};

static enum err batch_sort(struct batch *b, const struct evidence_report *report)
{
    b->count = report->price_count;
    b->removed_count = report->price_removed.count;
    b->entries = fault_malloc((b->count + 1) * sizeof(struct catalog_entry *));
    b->names = fault_malloc((b->count + 1) * sizeof *b->names);
    b->removed = fault_malloc((b->removed_count + 1) * sizeof *b->removed);
    if (!b->entries || !b->names || !b->removed)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < b->count; i++)
        b->entries[i] = &report->prices[i];
    if (b->count > 0)
        qsort(b->entries, b->count, sizeof(struct catalog_entry *), entry_order);
    for (uint32_t i = 0; i < b->removed_count; i++)
        b->removed[i] = report->price_removed.items[i];
    if (b->removed_count > 0)
        qsort(b->removed, b->removed_count, sizeof *b->removed, name_order);
    for (uint32_t i = 0; i < b->count; i++) {
        b->names[i] = b->entries[i]->name;
        bool twice = i > 0 && span_eq(b->names[i], b->names[i - 1]);
        if (twice || b->names[i].len == 0 ||
            bsearch(&b->names[i], b->removed, b->removed_count, sizeof *b->removed, name_order))
            return ERR_INVALID;
    }
    return OK;
}

/* Fills changes: what is said, what is dropped, and in a full catalog what is not named. The rows are there already. */
static enum err batch_changes(struct batch *b, struct prices *prices, bool full)
{
    b->changes = fault_malloc(((size_t)prices->count + b->count + 1) * sizeof *b->changes);
    if (!b->changes)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < b->count; i++)
        b->changes[b->change_count++] =
            (struct change){ .row = prices_row_find(prices, b->names[i]), .value = value_of(b->entries[i]) };
    for (uint32_t i = 0; i < prices->count; i++) {
        struct prices_row *row = prices->rows[i];
        if (!row->feed.there && !told(row))
            continue;
        bool named = bsearch(&row->name, b->names, b->count, sizeof *b->names, name_order);
        bool dropped = bsearch(&row->name, b->removed, b->removed_count, sizeof *b->removed, name_order);
        if (!named && (full || dropped))
            b->changes[b->change_count++] = (struct change){ .row = row };
    }
    return OK;
}

static enum err take_batch(struct prices *prices, const struct evidence_report *report, int64_t now_ms)
{
    struct batch b = { 0 };
    enum err err = batch_sort(&b, report);
    if (!err)
        err = prices_rows_add(prices, b.names, b.count);
    if (!err)
        err = batch_changes(&b, prices, report->price_full);
    if (!err) {
        prices->batch = judge_batch(prices, b.changes, b.change_count);
        for (uint32_t i = 0; i < b.change_count; i++)
            apply(prices, &b.changes[i], prices->batch, now_ms);
        prices->base++;
        heard(prices, report, now_ms);
    }
    prices_settle(prices);
    free(b.entries);
    free(b.names);
    free(b.removed);
    free(b.changes);
    return err;
}

enum err prices_take(struct prices *prices, const struct evidence_report *report, int64_t now_ms)
{
    if (report->price_problem.len > 0) {
        replace_text(&prices->problem, report->price_problem);
        return OK;
    }
    if (report->price_full || report->price_count > 0 || report->price_removed.count > 0) {
        if (!report->price_full && (prices->base == 0 || report->price_base != prices->base))
            return ERR_STALE;
        return take_batch(prices, report, now_ms);
    }
    if (prices->base > 0 && report->price_base == prices->base) /* nothing new, but the source was read and is good */
        heard(prices, report, now_ms);
    return OK;
}

/* ---- people ---- */

enum err prices_set(struct prices *prices, struct span name, const struct price *price, int64_t now_ms, struct span by)
{
    REQUIRE(name.len > 0 && name.len <= NAME_BYTES_MAX);
    enum err err = prices_rows_add(prices, &name, 1);
    struct prices_row *row = err ? NULL : prices_row_find(prices, name);
    if (!row)
        return ERR_NOMEM;
    replace_text(&row->set.by, by);
    row->set.there = true;
    row->set.price = *price;
    row->set.at_ms = now_ms;
    prices->dirty = true;
    prices_settle(prices);
    return OK;
}

enum err prices_unset(struct prices *prices, struct span name)
{
    struct prices_row *row = prices_row_find(prices, name);
    if (!row || !row->set.there)
        return ERR_NOT_FOUND;
    row->set.there = false;
    replace_text(&row->set.by, SPAN(""));
    prices->dirty = true;
    prices_settle(prices);
    return OK;
}

enum err prices_accept(struct prices *prices, struct span name, int64_t now_ms, uint32_t *ret_count)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < prices->count; i++) {
        struct prices_row *row = prices->rows[i];
        if (row->held.why == PRICES_HOLD_NONE || (name.len > 0 && !span_eq(row->name, name)))
            continue;
        row->feed = row->held.value;
        row->feed_at_ms = now_ms;
        row->held.why = PRICES_HOLD_NONE;
        count++;
    }
    if (count == 0)
        return ERR_NOT_FOUND;
    if (prices_held(prices) == 0)
        prices->batch = PRICES_HOLD_NONE;
    prices->dirty = true;
    prices_settle(prices);
    *ret_count = count;
    return OK;
}

/* ---- asking ---- */

const struct policy_book *prices_book(const struct prices *prices)
{
    return &prices->view;
}

uint64_t prices_version(const struct prices *prices)
{
    return prices->version;
}

uint64_t prices_base(const struct prices *prices)
{
    return prices->base;
}

bool prices_dirty(const struct prices *prices)
{
    return prices->dirty;
}

void prices_exported(struct prices *prices)
{
    prices->dirty = false;
    prices->heard_stored_ms = prices->heard_at_ms;
}

bool prices_feed_stale(const struct prices *prices, int64_t now_ms)
{
    return prices->heard_at_ms > 0 && now_ms - prices->heard_at_ms > PRICES_STALE_MS;
}

bool prices_stale_row(const struct prices *prices, const struct prices_row *row, int64_t now_ms)
{
    return row->source == PRICE_SOURCE_FEED && prices_feed_stale(prices, now_ms);
}

bool prices_find(const struct prices *prices, struct span name, int64_t now_ms, struct price *ret_price,
                 enum price_source *ret_source, bool *ret_stale)
{
    const struct prices_row *row = prices_row_find(prices, name);
    if (!row || row->source == PRICE_SOURCE_NONE || !row->entry.price.known)
        return false;
    *ret_price = row->entry.price;
    *ret_source = row->source;
    *ret_stale = prices_stale_row(prices, row, now_ms);
    return true;
}

uint32_t prices_held(const struct prices *prices)
{
    uint32_t held = 0;
    for (uint32_t i = 0; i < prices->count; i++)
        held += prices->rows[i]->held.why != PRICES_HOLD_NONE;
    return held;
}
