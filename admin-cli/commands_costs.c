/* costs: what requests cost, at list prices and as charged, by what one likes to know it. */
#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/strmap.h"
#include "common/units.h"

#define DIMENSIONS_MAX 10u
#define TEXT_BYTES_MAX (256u << 20)

static const struct {
    const char *name, *csv, *title;
    enum column_kind kind;
} sums[] = {
    { "requests", "requests", "REQUESTS", COLUMN_NUMBER },
    { "errors", "errors", "ERRORS", COLUMN_NUMBER },
    { "estimated", "estimated", "ESTIMATED", COLUMN_NUMBER },
    { "input_tokens", "input_tokens", "INPUT", COLUMN_NUMBER },
    { "cached_tokens", "cached_tokens", "CACHED", COLUMN_NUMBER },
    { "output_tokens", "output_tokens", "OUTPUT", COLUMN_NUMBER },
    { "list_nano_usd", "list_usd", "LIST USD", COLUMN_NANO_USD },
    { "charged_nano_usd", "charged_usd", "CHARGED USD", COLUMN_NANO_USD },
};

struct costs {
    struct cli *cli;
    const char *by[DIMENSIONS_MAX]; /* names as the control plane gave them */
    unsigned by_count;
    int64_t total[ARRAY_LEN(sums)];
};

static int64_t number(const struct json_index *ix, uint32_t object, const char *name)
{
    int64_t value = 0;
    const uint32_t token = json_get(ix, object, span_cstr(name));
    return token != JSON_NONE && json_i64(ix, token, &value) == OK ? value : 0;
}

static enum err read_names(struct costs *c, const struct json_index *ix)
{
    const uint32_t by = json_get(ix, 0, SPAN("by"));
    for (uint32_t t = by == JSON_NONE ? JSON_NONE : json_first(ix, by); t != JSON_NONE; t = json_next(ix, by, t)) {
        struct span name;
        if (c->by_count == DIMENSIONS_MAX || json_string(&c->cli->arena, ix, t, &name) != OK)
            return ERR_INVALID;
        c->by[c->by_count++] = arena_printf(&c->cli->arena, SPAN_FMT, SPAN_ARG(name));
    }
    return c->by_count ? OK : ERR_INVALID;
}

static void add_up(struct costs *c, const struct json_index *ix, uint32_t object)
{
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        c->total[i] += number(ix, object, sums[i].name);
}

/* A row that stands for others: its name in the first column. */
static enum err put_special(struct costs *c, struct buf *out, const char *name, const int64_t *values)
{
    struct json_writer w;
    enum err err = out->len > 1 ? buf_append_byte(out, ',') : OK;
    if (err)
        return err;
    json_writer_init(&w, out);
    json_object_open(&w);
    json_member_cstr(&w, c->by[0], name);
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        json_member_i64(&w, sums[i].name, values[i]);
    json_object_close(&w);
    return json_writer_end(&w);
}

static enum err put_named(struct costs *c, struct buf *out, const struct json_index *ix, const char *member,
                          const char *name)
{
    int64_t values[ARRAY_LEN(sums)];
    const uint32_t object = json_get(ix, 0, span_cstr(member));
    if (object == JSON_NONE)
        return OK;
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        values[i] = number(ix, object, sums[i].name);
    return put_special(c, out, name, values);
}

/* ---- as a table ---- */

static int print_table(struct costs *c, const struct json_index *ix, uint32_t rows)
{
    struct column columns[DIMENSIONS_MAX + ARRAY_LEN(sums)];
    struct buf out = BUF_INIT(TEXT_BYTES_MAX);
    struct json_index all;
    size_t count = 0;
    for (unsigned i = 0; i < c->by_count; i++) {
        char *title = arena_printf(&c->cli->arena, "%s", c->by[i]);
        for (char *at = title; at && *at; at++)
            *at = *at >= 'a' && *at <= 'z' ? (char)(*at - 'a' + 'A') : *at;
        columns[count++] = (struct column){ title ? title : "?", c->by[i], COLUMN_TEXT };
    }
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        columns[count++] = (struct column){ sums[i].title, sums[i].name, sums[i].kind };
    const struct span inside = json_raw(ix, rows);
    enum err err = buf_append(&out, span_head(inside, inside.len - 1)); /* "[...", to be gone on with */
    if (!err)
        err = put_named(c, &out, ix, "rest", "(others)");
    if (!err && ix->tokens[rows].count)
        err = put_special(c, &out, "(total)", c->total);
    if (!err)
        err = put_named(c, &out, ix, "shadow", "(shadows, nobody's)");
    if (!err)
        err = buf_append_byte(&out, ']');
    const struct span json = err ? SPAN("") : arena_dup(&c->cli->arena, buf_span(&out));
    buf_release(&out);
    if (err || !json.ptr || json_index(&c->cli->arena, json, &json_limits_default, &all, NULL) != OK)
        return cli_fail(c->cli, EXIT_FAILED, "out of memory; --json prints it");
    render_table(c->cli, &all, 0, columns, count, "no requests in that time");
    const uint64_t unreadable = render_u64(ix, 0, "unreadable");
    if (unreadable)
        fprintf(stderr, "fairlead: %llu records could not be read and are not in it\n", (unsigned long long)unreadable);
    return EXIT_GOOD;
}

/* ---- as CSV (RFC 4180) ---- */

static void csv_text(struct span text)
{
    putchar('"');
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '"')
            putchar('"');
        putchar(text.ptr[i]);
    }
    putchar('"');
}

static void csv_sums(const int64_t *values)
{
    char usd[UNITS_TEXT_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(sums); i++) {
        if (sums[i].kind == COLUMN_NANO_USD)
            printf(",%s", units_format_usd(values[i], usd));
        else
            printf(",%lld", (long long)values[i]);
    }
    printf("\r\n");
}

static void csv_row(struct costs *c, const struct json_index *ix, uint32_t object, const char *name)
{
    int64_t values[ARRAY_LEN(sums)];
    for (unsigned i = 0; i < c->by_count; i++) {
        struct span text = i == 0 && name ? span_cstr(name) : SPAN("");
        const uint32_t token = json_get(ix, object, span_cstr(c->by[i]));
        if (token != JSON_NONE && json_string(&c->cli->arena, ix, token, &text) != OK)
            text = SPAN("");
        printf("%s", i ? "," : "");
        csv_text(text);
    }
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        values[i] = number(ix, object, sums[i].name);
    csv_sums(values);
}

/* No total: who reads CSV adds up. */
static void print_csv(struct costs *c, const struct json_index *ix, uint32_t rows)
{
    const uint32_t rest = json_get(ix, 0, SPAN("rest"));
    for (unsigned i = 0; i < c->by_count; i++)
        printf("%s%s", i ? "," : "", c->by[i]);
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        printf(",%s", sums[i].csv);
    printf("\r\n");
    for (uint32_t t = json_first(ix, rows); t != JSON_NONE; t = json_next(ix, rows, t))
        csv_row(c, ix, t, NULL);
    if (rest != JSON_NONE)
        csv_row(c, ix, rest, "(others)");
}

/* ---- by tag: rows by key, folded by what the keys' tags are ---- */

#define FOLDED_BY_MAX DIMENSIONS_MAX

struct fold {
    struct cli *cli;
    struct span by[FOLDED_BY_MAX]; /* as asked for */
    unsigned by_count;
    struct json_index keys;
    struct strmap tags, rows; /* key id -> token of its tags, plus one; joined values -> struct folded */
};
struct folded {
    struct span values[FOLDED_BY_MAX];
    int64_t sums[ARRAY_LEN(sums)];
};

static bool is_tag(struct span name)
{
    return span_eq(name, SPAN("tag")) || span_starts(name, SPAN("tag:"));
}

/* What is asked of the control plane: the same list with the key in the place of its tags. NULL: no tag in it, or more
 * dimensions than there are. */
static const char *without_tags(struct fold *fold, const char *by)
{
    struct span rest = span_cstr(by), name;
    const char *asked = "";
    bool tags = false, key = false;
    while (span_split(&rest, ',', &name)) {
        name = span_trim(name);
        if (fold->by_count == FOLDED_BY_MAX)
            return NULL;
        fold->by[fold->by_count++] = name;
        tags = tags || is_tag(name);
        key = key || span_eq(name, SPAN("key"));
        if (asked && !is_tag(name))
            asked = arena_printf(&fold->cli->lasting, "%s%s" SPAN_FMT, asked, *asked ? "," : "", SPAN_ARG(name));
    }
    if (!tags || !asked)
        return NULL;
    return key ? asked : arena_printf(&fold->cli->lasting, "%s%skey", asked, *asked ? "," : "");
}

static int read_keys(struct fold *fold)
{
    struct cli *cli = fold->cli;
    struct call call = { .command = "keys.list" };
    const struct admin_reply *reply;
    call_arg_cstr(&call, "all", "true"); /* what a revoked key cost is still somebody's */
    const int code = call_ask(cli, &call, &reply, &fold->keys);
    strmap_init(&fold->tags, &cli->arena);
    strmap_init(&fold->rows, &cli->arena);
    for (uint32_t t = code == EXIT_GOOD ? json_first(&fold->keys, 0) : JSON_NONE; t != JSON_NONE;
         t = json_next(&fold->keys, 0, t)) {
        struct span id;
        const uint32_t token = json_get(&fold->keys, t, SPAN("id")), tags = json_get(&fold->keys, t, SPAN("tags"));
        if (token == JSON_NONE || tags == JSON_NONE || json_string(&cli->arena, &fold->keys, token, &id) != OK)
            continue;
        if (strmap_put(&fold->tags, id, (void *)((uintptr_t)tags + 1)) == ERR_NOMEM)
            return cli_fail(cli, EXIT_FAILED, "out of memory");
    }
    return code;
}

static struct span text_of(struct cli *cli, const struct json_index *ix, uint32_t object, struct span name)
{
    struct span text;
    const uint32_t token = json_get(ix, object, name);
    return token != JSON_NONE && json_string(&cli->arena, ix, token, &text) == OK ? text : SPAN("");
}

/* "tag:project" of the key: its value; "tag": "project=x, stage=y". "" for none. */
static struct span tag_of(struct fold *fold, struct span name, struct span key)
{
    const uintptr_t found = (uintptr_t)strmap_get(&fold->tags, key);
    if (!found)
        return SPAN("");
    const uint32_t tags = (uint32_t)(found - 1);
    if (span_starts(name, SPAN("tag:")))
        return text_of(fold->cli, &fold->keys, tags, span_skip(name, 4));
    const char *text = "";
    for (uint32_t t = json_first(&fold->keys, tags); text && t != JSON_NONE; t = json_next(&fold->keys, tags, t)) {
        struct span part, value;
        if (json_string(&fold->cli->arena, &fold->keys, t, &part) != OK)
            break;
        t = json_next(&fold->keys, tags, t);
        if (t == JSON_NONE || json_string(&fold->cli->arena, &fold->keys, t, &value) != OK)
            break;
        text = arena_printf(&fold->cli->arena, "%s%s" SPAN_FMT "=" SPAN_FMT, text, *text ? ", " : "", SPAN_ARG(part),
                            SPAN_ARG(value));
    }
    return span_cstr(text);
}

static enum err fold_row(struct fold *fold, const struct json_index *ix, uint32_t row)
{
    struct arena *arena = &fold->cli->arena;
    struct span values[FOLDED_BY_MAX], parts[2 * FOLDED_BY_MAX];
    const struct span key = text_of(fold->cli, ix, row, SPAN("key"));
    for (unsigned i = 0; i < fold->by_count; i++) {
        values[i] = is_tag(fold->by[i]) ? tag_of(fold, fold->by[i], key) : text_of(fold->cli, ix, row, fold->by[i]);
        parts[2 * i] = values[i];
        parts[2 * i + 1] = SPAN("\n"); /* stands in no name */
    }
    const struct span joined = arena_join(arena, parts, 2 * (size_t)fold->by_count);
    struct folded *folded = joined.ptr ? strmap_get(&fold->rows, joined) : NULL;
    if (!folded) {
        folded = ARENA_NEW(arena, struct folded);
        if (!joined.ptr || !folded || strmap_put(&fold->rows, joined, folded) != OK)
            return ERR_NOMEM;
        memcpy(folded->values, values, sizeof(values));
    }
    for (size_t i = 0; i < ARRAY_LEN(sums); i++)
        folded->sums[i] += number(ix, row, sums[i].name);
    return OK;
}

static int dearest_first(const void *a, const void *b)
{
    const struct folded *x = *(struct folded *const *)a, *y = *(struct folded *const *)b;
    const int64_t left = x->sums[ARRAY_LEN(sums) - 1], right = y->sums[ARRAY_LEN(sums) - 1];
    for (unsigned i = 0; left == right && i < FOLDED_BY_MAX; i++) {
        const int order = span_cmp(x->values[i], y->values[i]);
        if (order != 0)
            return order;
    }
    return left < right ? 1 : left > right ? -1 : 0;
}

/* The answer with its rows folded. */
static enum err put_folded(struct fold *fold, const struct json_index *ix, struct buf *out)
{
    static const char *const kept[] = { "first_ms", "last_ms", "unreadable", "rest", "shadow" };
    struct json_writer w;
    struct span key;
    void *value;
    size_t count = 0;
    struct folded **rows = ARENA_ARRAY(&fold->cli->arena, fold->rows.count + 1, struct folded *);
    if (!rows)
        return ERR_NOMEM;
    for (size_t at = 0; strmap_each(&fold->rows, &at, &key, &value);)
        rows[count++] = value;
    qsort(rows, count, sizeof(struct folded *), dearest_first);
    const char *names[FOLDED_BY_MAX];
    for (unsigned i = 0; i < fold->by_count; i++) {
        char *text = arena_printf(&fold->cli->arena, SPAN_FMT, SPAN_ARG(fold->by[i]));
        if (!text)
            return ERR_NOMEM;
        for (char *at = text; *at; at++)
            *at = *at == '.' ? '_' : *at; /* a dot leads into an object where tables are made */
        names[i] = text;
    }
    json_writer_init(&w, out);
    json_object_open(&w);
    json_key(&w, SPAN("by"));
    json_array_open(&w);
    for (unsigned i = 0; i < fold->by_count; i++)
        json_put_cstr(&w, names[i]);
    json_array_close(&w);
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        const uint32_t token = json_get(ix, 0, span_cstr(kept[i]));
        if (token == JSON_NONE)
            continue;
        json_key(&w, span_cstr(kept[i]));
        json_put_raw(&w, json_raw(ix, token));
    }
    json_key(&w, SPAN("rows"));
    json_array_open(&w);
    for (size_t r = 0; r < count; r++) {
        json_object_open(&w);
        for (unsigned i = 0; i < fold->by_count; i++)
            json_member_string(&w, names[i], rows[r]->values[i]);
        for (size_t i = 0; i < ARRAY_LEN(sums); i++)
            json_member_i64(&w, sums[i].name, rows[r]->sums[i]);
        json_object_close(&w);
    }
    json_array_close(&w);
    json_object_close(&w);
    return json_writer_end(&w);
}

static int fold_tags(struct fold *fold, const struct json_index *ix, struct span *ret_json, struct json_index *ret)
{
    struct buf out = BUF_INIT(TEXT_BYTES_MAX);
    const uint32_t rows = json_get(ix, 0, SPAN("rows"));
    const int code = read_keys(fold);
    enum err err = OK;
    if (code != EXIT_GOOD)
        return code;
    for (uint32_t t = rows == JSON_NONE ? JSON_NONE : json_first(ix, rows); !err && t != JSON_NONE;
         t = json_next(ix, rows, t))
        err = fold_row(fold, ix, t);
    if (!err)
        err = put_folded(fold, ix, &out);
    *ret_json = err ? SPAN("") : arena_dup(&fold->cli->arena, buf_span(&out));
    buf_release(&out);
    if (!err)
        err = ret_json->ptr ? json_index(&fold->cli->arena, *ret_json, &json_limits_default, ret, NULL) : ERR_NOMEM;
    return err ? cli_fail(fold->cli, EXIT_FAILED, "folding by tags: %s", err_name(err)) : EXIT_GOOD;
}

int run_costs(struct cli *cli)
{
    struct fold fold = { .cli = cli };
    const char *by = opts_text(&cli->given, "by", "team,model");
    const char *asked = without_tags(&fold, by);
    struct costs c = { .cli = cli };
    struct call call = { .command = "costs" };
    const char *since = opts_text(&cli->given, "since", "7d");
    const struct admin_reply *reply;
    struct json_index ix;
    uint64_t ago;
    if (units_parse_duration(span_cstr(since), &ago) != OK || ago == 0 || ago > INT64_MAX / 2)
        return cli_fail(cli, EXIT_USAGE, "--since: '%s' is no duration (1h, 7d)", since);
    const int64_t from = clock_wall_ms() - (int64_t)ago;
    call_arg_cstr(&call, "by", asked ? asked : by);
    call_arg_cstr(&call, "since_ms", arena_printf(&cli->lasting, "%lld", (long long)(from > 0 ? from : 0)));
    int code = call_ask(cli, &call, &reply, &ix);
    if (code != EXIT_GOOD)
        return code;
    struct span json = reply->result;
    struct json_index by_keys = ix;
    if (asked)
        code = fold_tags(&fold, &by_keys, &json, &ix);
    if (code != EXIT_GOOD)
        return code;
    if (cli->json) {
        render_json(json);
        return EXIT_GOOD;
    }
    const uint32_t rows = json_get(&ix, 0, SPAN("rows")), rest = json_get(&ix, 0, SPAN("rest"));
    if (rows == JSON_NONE || json_kind(&ix, rows) != JSON_ARRAY || read_names(&c, &ix) != OK)
        return cli_fail(cli, EXIT_FAILED, "the control plane's answer is not understood: is it of this version?");
    for (uint32_t t = json_first(&ix, rows); t != JSON_NONE; t = json_next(&ix, rows, t))
        add_up(&c, &ix, t);
    if (rest != JSON_NONE)
        add_up(&c, &ix, rest);
    if (!opts_flag(&cli->given, "csv"))
        return print_table(&c, &ix, rows);
    print_csv(&c, &ix, rows);
    return EXIT_GOOD;
}
