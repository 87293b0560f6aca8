#include "common/arena.h"
#include "common/fault.h"
#include "controlplane/evidence/catalog.h"
#include "controlplane/evidence/prices_internal.h"

#define BLOB_BYTES_MAX (256u << 20) /* rows of three values each, with room */
#define BLOB_ARENA_MAX ((size_t)2 << 30)
#define PRICE_FIGURES  11u

static const char *const hold_names[PRICES_HOLD_COUNT] = { "none", "zero", "jump", "empty", "half", "sweep" };
static const char *const source_names[] = { "none", "policy", "set", "feed", "book" };

/* ---- storing ---- */

static void put_price(struct json_writer *w, const struct price *p)
{
    const int64_t figures[PRICE_FIGURES] = { p->known,       p->input,       p->output,         p->cache_read,
                                             p->cache_write, p->reasoning,   p->request,        (int64_t)p->long_above,
                                             p->long_input,  p->long_output, p->long_cache_read };
    json_array_open(w);
    for (size_t i = 0; i < PRICE_FIGURES; i++)
        json_put_i64(w, figures[i]);
    json_array_close(w);
}

static void put_value(struct json_writer *w, const struct prices_value *value)
{
    if (!value->there) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_key(w, SPAN("price"));
    put_price(w, &value->price);
    json_member_u64(w, "context", value->context_tokens);
    json_member_u64(w, "output", value->output_tokens_max);
    json_member_u64(w, "can", value->capabilities);
    json_member_u64(w, "known", value->capabilities_known);
    json_member_cstr(w, "deprecated", value->deprecated_on);
    json_object_close(w);
}

static void put_row(struct json_writer *w, const struct prices_row *row)
{
    json_object_open(w);
    json_member_string(w, "name", row->name);
    if (row->feed.there) {
        json_key(w, SPAN("feed"));
        put_value(w, &row->feed);
        json_member_i64(w, "feed_at", row->feed_at_ms);
    }
    if (row->set.there) {
        json_key(w, SPAN("set"));
        put_price(w, &row->set.price);
        json_member_i64(w, "set_at", row->set.at_ms);
        json_member_cstr(w, "set_by", row->set.by ? row->set.by : "");
    }
    if (row->held.why != PRICES_HOLD_NONE) {
        json_member_cstr(w, "why", hold_names[row->held.why]);
        json_member_i64(w, "held_at", row->held.at_ms);
        json_key(w, SPAN("held"));
        put_value(w, &row->held.value);
    }
    json_object_close(w);
}

enum err prices_export(const struct prices *prices, struct buf *out)
{
    struct json_writer w;
    char hex[SHA256_HEX + 1];
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_u64(&w, "version", prices->version);
    json_member_u64(&w, "base", prices->base);
    json_member_cstr(&w, "shipped", hex_encode(prices->shipped.bytes, SHA256_BYTES, hex));
    json_member_cstr(&w, "origin", prices->origin ? prices->origin : "");
    json_member_i64(&w, "heard_at", prices->heard_at_ms);
    json_member_cstr(&w, "batch", hold_names[prices->batch]);
    json_key(&w, SPAN("rows"));
    json_array_open(&w);
    for (uint32_t i = 0; i < prices->count; i++) {
        const struct prices_row *row = prices->rows[i];
        if (row->feed.there || row->set.there || row->held.why != PRICES_HOLD_NONE)
            put_row(&w, row);
    }
    json_array_close(&w);
    json_object_close(&w);
    return json_writer_end(&w);
}

/* ---- restoring ---- */

struct blob {
    struct arena arena;
    struct json_index ix;
};

static bool get_u64(struct blob *b, uint32_t object, const char *name, uint64_t *ret)
{
    uint32_t t = json_get(&b->ix, object, span_cstr(name));
    return t != JSON_NONE && json_u64(&b->ix, t, ret) == OK;
}

static bool get_u32(struct blob *b, uint32_t object, const char *name, uint32_t *ret)
{
    uint64_t value;
    if (!get_u64(b, object, name, &value) || value > UINT32_MAX)
        return false;
    *ret = (uint32_t)value;
    return true;
}

static bool get_i64(struct blob *b, uint32_t object, const char *name, int64_t *ret)
{
    uint32_t t = json_get(&b->ix, object, span_cstr(name));
    return t != JSON_NONE && json_i64(&b->ix, t, ret) == OK;
}

static bool get_text(struct blob *b, uint32_t object, const char *name, struct span *ret)
{
    uint32_t t = json_get(&b->ix, object, span_cstr(name));
    return t != JSON_NONE && json_string(&b->arena, &b->ix, t, ret) == OK;
}

static bool get_hold(struct blob *b, uint32_t object, const char *name, enum prices_hold *ret)
{
    struct span text;
    for (unsigned i = 0; get_text(b, object, name, &text) && i < PRICES_HOLD_COUNT; i++) {
        if (span_eq(text, span_cstr(hold_names[i]))) {
            *ret = (enum prices_hold)i;
            return true;
        }
    }
    return false;
}

static bool get_price(struct blob *b, uint32_t object, const char *name, struct price *ret)
{
    int64_t f[PRICE_FIGURES] = { 0 };
    uint32_t list = json_get(&b->ix, object, span_cstr(name)), n = 0;
    if (list == JSON_NONE || json_kind(&b->ix, list) != JSON_ARRAY || b->ix.tokens[list].count != PRICE_FIGURES)
        return false;
    for (uint32_t t = json_first(&b->ix, list); t != JSON_NONE; t = json_next(&b->ix, list, t)) {
        if (json_i64(&b->ix, t, &f[n]) != OK || f[n] < 0)
            return false;
        n++;
    }
    *ret = (struct price){ .known = (uint32_t)f[0],
                           .input = f[1],
                           .output = f[2],
                           .cache_read = f[3],
                           .cache_write = f[4],
                           .reasoning = f[5],
                           .request = f[6],
                           .long_above = (uint64_t)f[7],
                           .long_input = f[8],
                           .long_output = f[9],
                           .long_cache_read = f[10] };
    return f[0] <= UINT32_MAX;
}

static bool get_value(struct blob *b, uint32_t object, const char *name, struct prices_value *ret)
{
    struct span date;
    uint32_t t = json_get(&b->ix, object, span_cstr(name));
    if (t == JSON_NONE)
        return false;
    *ret = (struct prices_value){ 0 };
    if (json_kind(&b->ix, t) == JSON_NULL)
        return true;
    ret->there = true;
    if (!get_price(b, t, "price", &ret->price) || !get_u64(b, t, "context", &ret->context_tokens) ||
        !get_u64(b, t, "output", &ret->output_tokens_max) || !get_u32(b, t, "can", &ret->capabilities) ||
        !get_u32(b, t, "known", &ret->capabilities_known) || !get_text(b, t, "deprecated", &date) ||
        date.len >= PRICES_DATE_BYTES_MAX)
        return false;
    if (date.len > 0)
        memcpy(ret->deprecated_on, date.ptr, date.len);
    return true;
}

static bool has(struct blob *b, uint32_t object, const char *name)
{
    return json_get(&b->ix, object, span_cstr(name)) != JSON_NONE;
}

static char *copy_text(struct span text)
{
    char *copy = fault_malloc(text.len + 1);
    if (copy) {
        if (text.len > 0)
            memcpy(copy, text.ptr, text.len);
        copy[text.len] = '\0';
    }
    return copy;
}

static bool get_row(struct blob *b, uint32_t object, struct prices_row *row)
{
    struct span by;
    if (has(b, object, "feed") &&
        !(get_value(b, object, "feed", &row->feed) && get_i64(b, object, "feed_at", &row->feed_at_ms)))
        return false;
    if (has(b, object, "set")) {
        if (!get_price(b, object, "set", &row->set.price) || !get_i64(b, object, "set_at", &row->set.at_ms) ||
            !get_text(b, object, "set_by", &by))
            return false;
        row->set.there = true;
        row->set.by = copy_text(by);
    }
    if (!has(b, object, "why"))
        return true;
    return get_hold(b, object, "why", &row->held.why) && row->held.why != PRICES_HOLD_NONE &&
           get_i64(b, object, "held_at", &row->held.at_ms) && get_value(b, object, "held", &row->held.value);
}

static enum err read_rows(struct blob *b, struct prices *prices, uint32_t list)
{
    uint32_t count = b->ix.tokens[list].count, n = 0;
    struct span *names = ARENA_ARRAY(&b->arena, count + 1, struct span);
    if (!names)
        return ERR_NOMEM;
    for (uint32_t t = json_first(&b->ix, list); t != JSON_NONE; t = json_next(&b->ix, list, t)) {
        if (json_kind(&b->ix, t) != JSON_OBJECT || !get_text(b, t, "name", &names[n]) || names[n].len == 0 ||
            (n > 0 && span_cmp(names[n - 1], names[n]) >= 0))
            return ERR_CORRUPT;
        n++;
    }
    enum err err = prices_rows_add(prices, names, count);
    n = 0;
    for (uint32_t t = json_first(&b->ix, list); !err && t != JSON_NONE; t = json_next(&b->ix, list, t)) {
        if (!get_row(b, t, prices_row_find(prices, names[n++])))
            err = ERR_CORRUPT;
    }
    return err;
}

static enum err read_blob(struct blob *b, struct span text, struct prices *prices)
{
    static const struct json_limits limits = { .bytes_max = BLOB_BYTES_MAX, .depth_max = 8, .tokens_max = 64u << 20 };
    struct span hex, origin;
    enum err err = json_index(&b->arena, text, &limits, &b->ix, NULL);
    if (err)
        return err == ERR_NOMEM ? err : ERR_CORRUPT;
    uint32_t rows = json_get(&b->ix, 0, SPAN("rows"));
    if (!get_u64(b, 0, "version", &prices->version) || !get_u64(b, 0, "base", &prices->base) ||
        !get_text(b, 0, "shipped", &hex) || hex_decode(hex, prices->shipped.bytes, SHA256_BYTES) != OK ||
        !get_text(b, 0, "origin", &origin) || !get_i64(b, 0, "heard_at", &prices->heard_at_ms) ||
        !get_hold(b, 0, "batch", &prices->batch) || rows == JSON_NONE || json_kind(&b->ix, rows) != JSON_ARRAY)
        return ERR_CORRUPT;
    prices->origin = origin.len > 0 ? copy_text(origin) : NULL;
    return read_rows(b, prices, rows);
}

/* The shipped book is not in the blob: it comes from its file at each start. */
static enum err copy_shipped(const struct prices *from, struct prices *to)
{
    struct span *names = fault_malloc((from->count + 1) * sizeof *names);
    if (!names)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < from->count; i++)
        names[i] = from->rows[i]->name;
    enum err err = prices_rows_add(to, names, from->count);
    free(names);
    for (uint32_t i = 0; i < from->count && !err; i++)
        prices_row_find(to, from->rows[i]->name)->shipped = from->rows[i]->shipped;
    return err;
}

enum err prices_import(struct prices *prices, struct span blob)
{
    struct blob b = { 0 };
    struct prices *fresh;
    enum err err = prices_new(&fresh);
    if (err)
        return err;
    arena_init(&b.arena, BLOB_ARENA_MAX);
    err = read_blob(&b, blob, fresh);
    if (!err)
        err = copy_shipped(prices, fresh);
    if (!err) {
        uint64_t version = fresh->version;
        prices_settle(fresh);
        fresh->version = version;
        prices_exported(fresh);
        prices_note_shipped(fresh);
        struct prices old = *prices;
        *prices = *fresh;
        *fresh = old;
        prices->view.user = prices;
    }
    prices_free(fresh);
    arena_release(&b.arena);
    return err;
}

/* ---- showing ---- */

static void show_price(struct json_writer *w, const struct price *p)
{
    const struct {
        const char *name;
        uint32_t bit;
        int64_t value;
    } parts[] = {
        { "input", PRICE_INPUT, p->input },
        { "output", PRICE_OUTPUT, p->output },
        { "cache_read", PRICE_CACHE_READ, p->cache_read },
        { "cache_write", PRICE_CACHE_WRITE, p->cache_write },
        { "reasoning", PRICE_REASONING, p->reasoning },
        { "request", PRICE_REQUEST, p->request },
        { "long_input", PRICE_LONG, p->long_input },
        { "long_output", PRICE_LONG, p->long_output },
        { "long_cache_read", PRICE_LONG, p->long_cache_read },
    };
    json_object_open(w);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (p->known & parts[i].bit)
            json_member_decimal(w, parts[i].name, parts[i].value, 9);
    }
    if (p->known & PRICE_LONG)
        json_member_u64(w, "long_above", p->long_above);
    json_object_close(w);
}

static void show_held(const struct prices_row *row, struct json_writer *w)
{
    const struct prices_value *last = row->feed.there ? &row->feed : &row->shipped;
    json_key(w, SPAN("quarantined"));
    json_object_open(w);
    json_member_cstr(w, "why", prices_hold_text(row->held.why));
    json_member_i64(w, "at_ms", row->held.at_ms);
    json_key(w, SPAN("old"));
    if (last->there)
        show_price(w, &last->price);
    else
        json_put_null(w);
    json_key(w, SPAN("new"));
    if (row->held.value.there)
        show_price(w, &row->held.value.price);
    else
        json_put_null(w);
    json_object_close(w);
}

static void show_row(const struct prices *prices, const struct prices_row *row, int64_t now_ms, struct json_writer *w)
{
    int64_t at_ms = row->source == PRICE_SOURCE_SET    ? row->set.at_ms
                    : row->source == PRICE_SOURCE_FEED ? row->feed_at_ms
                                                       : 0;
    json_object_open(w);
    json_member_string(w, "name", row->name);
    json_member_cstr(w, "source", source_names[row->source]);
    json_key(w, SPAN("price"));
    show_price(w, &row->entry.price);
    json_member_i64(w, "at_ms", at_ms);
    if (row->source == PRICE_SOURCE_SET)
        json_member_cstr(w, "by", row->set.by ? row->set.by : "");
    json_member_bool(w, "stale", prices_stale_row(prices, row, now_ms));
    json_member_bool(w, "mapped", catalog_is_mapped(row->name));
    json_member_u64(w, "context", row->entry.context_tokens);
    json_member_u64(w, "max_output", row->entry.output_tokens_max);
    json_member_string(w, "deprecated", row->entry.deprecated_on);
    if (row->held.why != PRICES_HOLD_NONE)
        show_held(row, w);
    json_object_close(w);
}

void prices_json(const struct prices *prices, struct span pattern, bool unmapped_only, int64_t now_ms,
                 struct json_writer *w)
{
    json_array_open(w);
    for (uint32_t i = 0; i < prices->count; i++) {
        const struct prices_row *row = prices->rows[i];
        if ((pattern.len == 0 || span_glob(pattern, row->name)) && !(unmapped_only && catalog_is_mapped(row->name)))
            show_row(prices, row, now_ms, w);
    }
    json_array_close(w);
}

void prices_json_summary(const struct prices *prices, int64_t now_ms, struct json_writer *w)
{
    uint32_t unmapped = 0, unpriced = 0, set = 0;
    for (uint32_t i = 0; i < prices->book_count; i++) {
        unmapped += !catalog_is_mapped(prices->book[i]->name);
        unpriced += prices->book[i]->entry.price.known == 0;
        set += prices->book[i]->set.there;
    }
    json_member_u64(w, "version", prices->version);
    json_member_u64(w, "entries", prices->book_count);
    json_member_u64(w, "unpriced", unpriced);
    json_member_u64(w, "unmapped", unmapped);
    json_member_u64(w, "set", set);
    json_member_u64(w, "quarantined", prices_held(prices));
    json_member_cstr(w, "quarantined_batch", prices->batch ? prices_hold_text(prices->batch) : NULL);
    json_key(w, SPAN("feed"));
    if (prices->base == 0 && !prices->problem) {
        json_put_null(w);
        return;
    }
    json_object_open(w);
    json_member_cstr(w, "origin", prices->origin ? prices->origin : "");
    json_member_i64(w, "heard_at_ms", prices->heard_at_ms);
    json_member_bool(w, "stale", prices_feed_stale(prices, now_ms));
    json_member_cstr(w, "problem", prices->problem);
    json_object_close(w);
}
