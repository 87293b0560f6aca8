#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/units.h"
#include <sys/ioctl.h>
#include <unistd.h>

#define COLUMNS_MAX      16u
#define CELL_COLUMNS_MAX 400u /* one value cannot push the others off the screen */
#define LIST_BYTES_MAX   (64u << 10)

uint32_t render_path(const struct json_index *ix, uint32_t object, const char *path)
{
    struct span rest = span_cstr(path), part;
    uint32_t at = object;
    while (at != JSON_NONE && span_split(&rest, '.', &part))
        at = json_get(ix, at, part);
    return at;
}

uint64_t render_u64(const struct json_index *ix, uint32_t object, const char *path)
{
    const uint32_t token = render_path(ix, object, path);
    uint64_t number = 0;
    return token != JSON_NONE && json_u64(ix, token, &number) == OK ? number : 0;
}

/* ---- cells ---- */

/* Bytes of the UTF-8 character at `at` (which the JSON index has checked to be whole) when a terminal must not get it:
 * control characters, C0 and C1, would move the cursor or worse; those that turn the writing direction make a line read
 * otherwise than it is. 0: harmless. */
static size_t harmful(const unsigned char *at, size_t left)
{
    if (at[0] < ' ' || at[0] == 0x7f)
        return 1;
    if (left >= 2 && at[0] == 0xc2 && at[1] < 0xa0) /* U+0080 .. U+009F */
        return 2;
    if (left >= 3 && at[0] == 0xe2 &&
        ((at[1] == 0x80 && at[2] >= 0xa8 && at[2] <= 0xae) || /* U+2028 .. U+202E */
         (at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9)))  /* U+2066 .. U+2069 */
        return 3;
    return 0;
}

struct span render_head(struct span text, size_t columns)
{
    size_t at = 0, seen = 0;
    for (; at < text.len; at++) {
        seen += ((unsigned char)text.ptr[at] & 0xc0) != 0x80;
        if (seen > columns)
            break;
    }
    return span_head(text, at);
}

static const char *clean(struct arena *arena, struct span head, const char *more)
{
    char *out = arena_alloc(arena, head.len + strlen(more) + 1);
    size_t len = 0;
    if (!out)
        return "?";
    for (size_t i = 0; i < head.len;) {
        const size_t bad = harmful((const unsigned char *)head.ptr + i, head.len - i);
        out[len++] = bad ? ' ' : head.ptr[i];
        i += bad ? bad : 1;
    }
    memcpy(out + len, more, strlen(more) + 1);
    return out;
}

const char *render_text(struct arena *arena, struct span text)
{
    const struct span head = render_head(text, CELL_COLUMNS_MAX);
    return clean(arena, head, head.len < text.len ? "…" : "");
}

const char *render_whole(struct arena *arena, struct span text)
{
    return clean(arena, text, "");
}

void render_long(const struct cli *cli, const struct json_index *ix, uint32_t object, const char *path)
{
    struct span text;
    const uint32_t token = render_path(ix, object, path);
    if (token == JSON_NONE || json_string((struct arena *)(uintptr_t)&cli->arena, ix, token, &text) != OK)
        return;
    for (size_t i = 0; i < text.len;) {
        const char c = text.ptr[i];
        const size_t bad = harmful((const unsigned char *)text.ptr + i, text.len - i);
        if (i == 0 || text.ptr[i - 1] == '\n')
            fputs("  ", stdout);
        putchar(bad && c != '\n' && c != '\t' ? ' ' : c);
        i += bad ? bad : 1;
    }
    putchar('\n');
}

static const char *text_of(struct arena *arena, const struct json_index *ix, uint32_t token)
{
    struct span text;
    switch (json_kind(ix, token)) {
    case JSON_STRING:
        return json_string(arena, ix, token, &text) == OK ? render_text(arena, text) : "?";
    case JSON_NULL:
        return "-";
    case JSON_TRUE:
        return "yes";
    case JSON_FALSE:
        return "no";
    case JSON_NUMBER:
    case JSON_ARRAY:
    case JSON_OBJECT:
        return render_text(arena, json_raw(ix, token));
    }
    return "?";
}

static enum err append_list(struct arena *arena, struct buf *out, const struct json_index *ix, uint32_t token,
                            const char *separator)
{
    const bool object = json_kind(ix, token) == JSON_OBJECT;
    const size_t before = out->len;
    enum err err = OK;
    for (uint32_t t = json_first(ix, token); !err && t != JSON_NONE; t = json_next(ix, token, t)) {
        if (out->len > before)
            err = buf_append_cstr(out, separator);
        if (!err)
            err = buf_append_cstr(out, text_of(arena, ix, t));
        if (object && !err) {
            t = json_next(ix, token, t);
            err = buf_append_byte(out, '=');
            if (!err && json_kind(ix, t) == JSON_ARRAY)
                err = append_list(arena, out, ix, t, "+");
            else if (!err)
                err = buf_append_cstr(out, text_of(arena, ix, t));
        }
    }
    return err;
}

/* "a, b" of an array, "k=v, k=v" of an object. */
static const char *list_of(struct arena *arena, const struct json_index *ix, uint32_t token)
{
    struct buf out = BUF_INIT(LIST_BYTES_MAX);
    const enum err err = append_list(arena, &out, ix, token, ", ");
    const char *text = err && err != ERR_FULL ? "?" : render_text(arena, buf_span(&out));
    buf_release(&out);
    return text;
}

static const char *age_of(struct arena *arena, int64_t ms)
{
    const int64_t s = ms / 1000;
    if (s < 0)
        return "0s";
    if (s < 120)
        return arena_printf(arena, "%llds", (long long)s);
    if (s < 2 * 3600)
        return arena_printf(arena, "%lldm", (long long)(s / 60));
    if (s < 2 * 24 * 3600)
        return arena_printf(arena, "%lldh", (long long)(s / 3600));
    return arena_printf(arena, "%lldd", (long long)(s / (24 * 3600)));
}

/* Rounded to the nearest unit: what was set to 30 days should not read 29. */
static const char *until(struct arena *arena, int64_t ms)
{
    const int64_t minute = 60000, hour = 60 * minute, day = 24 * hour;
    const int64_t unit = ms < 2 * minute ? 1000 : ms < 2 * hour ? minute : ms < 2 * day ? hour : day;
    return ms <= 0 ? "expired" : arena_printf(arena, "in %s", age_of(arena, ms + unit / 2));
}

static const char *number_cell(struct arena *arena, enum column_kind kind, int64_t number)
{
    char text[64];
    if ((kind == COLUMN_AGE || kind == COLUMN_UNTIL || kind == COLUMN_TIME) && number == 0)
        return "-";
    if (kind == COLUMN_AGE)
        return age_of(arena, clock_wall_ms() - number);
    if (kind == COLUMN_UNTIL)
        return until(arena, number - clock_wall_ms());
    if (kind == COLUMN_MS)
        return age_of(arena, number);
    if (kind == COLUMN_TIME)
        return arena_printf(arena, "%.19sZ", clock_format_wall(number, text));
    if (kind == COLUMN_US)
        return number == 0 ? "-" : arena_printf(arena, "%.1fms", (double)number / 1e3);
    if (kind == COLUMN_NANO_USD)
        return number == 0 ? "-" : arena_printf(arena, "%s", units_format_usd(number, text));
    if (kind == COLUMN_SHARE) /* ppm */
        return arena_printf(arena, "%.1f%%", (double)number / 1e4);
    return arena_printf(arena, "%lld", (long long)number);
}

/* Numbers with a fraction. */
static const char *fraction_cell(struct arena *arena, const struct json_index *ix, uint32_t token,
                                 enum column_kind kind)
{
    char text[UNITS_TEXT_BYTES];
    int64_t nano;
    double number;
    if (kind == COLUMN_USD && json_decimal(ix, token, 9, &nano) == OK && nano >= 0)
        return arena_printf(arena, "%s", units_format_usd(nano, text));
    if (kind == COLUMN_FRACTION && json_double(ix, token, &number) == OK)
        return arena_printf(arena, "%.4g%%", number * 100);
    if (kind == COLUMN_SCORE && json_double(ix, token, &number) == OK)
        return arena_printf(arena, "%.3f", number);
    return text_of(arena, ix, token);
}

static const char *word_cell(struct arena *arena, const struct json_index *ix, uint32_t token)
{
    char *text = arena_printf(arena, "%s", text_of(arena, ix, token));
    for (char *at = text ? strchr(text, '_') : NULL; at; at = strchr(at, '_'))
        *at = ' ';
    return text;
}

/* A push says why in its message, everything else in its reason. */
static const char *audit_cell(struct arena *arena, const struct json_index *ix, uint32_t entry)
{
    const uint32_t what = render_path(ix, entry, "message");
    uint32_t why = render_path(ix, entry, "args.reason");
    if (why == JSON_NONE)
        why = render_path(ix, entry, "args.message");
    if (what == JSON_NONE)
        return "-";
    if (why == JSON_NONE || json_raw(ix, why).len <= 2)
        return text_of(arena, ix, what);
    return arena_printf(arena, "%s (%s)", text_of(arena, ix, what), text_of(arena, ix, why));
}

const char *render_cell(const struct cli *cli, const struct json_index *ix, uint32_t object,
                        const struct column *column)
{
    struct arena *arena = (struct arena *)(uintptr_t)&cli->arena; /* results live as long as the command */
    const uint32_t token = render_path(ix, object, column->path);
    int64_t number;
    const char *text = NULL;
    if (token == JSON_NONE)
        return "-";
    if (column->kind == COLUMN_LIST)
        text = list_of(arena, ix, token);
    else if (column->kind == COLUMN_WORD)
        text = word_cell(arena, ix, token);
    else if (column->kind == COLUMN_AUDIT)
        text = audit_cell(arena, ix, token);
    else if (column->kind == COLUMN_USD || column->kind == COLUMN_SCORE || column->kind == COLUMN_FRACTION)
        text = fraction_cell(arena, ix, token, column->kind);
    else if (column->kind == COLUMN_TEXT || column->kind == COLUMN_PROSE || json_i64(ix, token, &number) != OK)
        text = text_of(arena, ix, token);
    else
        text = number_cell(arena, column->kind, number);
    return text ? (*text ? text : "-") : "?";
}

/* ---- tables ---- */

static size_t terminal_width(const struct cli *cli)
{
    struct winsize size;
    if (!cli->terminal || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 40)
        return SIZE_MAX;
    return size.ws_col;
}

static bool right_aligned(enum column_kind kind)
{
    switch (kind) {
    case COLUMN_NUMBER:
    case COLUMN_SHARE:
    case COLUMN_USD:
    case COLUMN_NANO_USD:
    case COLUMN_US:
    case COLUMN_SCORE:
    case COLUMN_FRACTION:
        return true;
    case COLUMN_TEXT:
    case COLUMN_AGE:
    case COLUMN_UNTIL:
    case COLUMN_TIME:
    case COLUMN_MS:
    case COLUMN_LIST:
    case COLUMN_WORD:
    case COLUMN_PROSE:
    case COLUMN_AUDIT:
        return false;
    }
    return false;
}

size_t render_width(struct span text)
{
    size_t width = 0;
    for (size_t i = 0; i < text.len; i++)
        width += ((unsigned char)text.ptr[i] & 0xc0) != 0x80;
    return width;
}

static size_t width_of(const char *text)
{
    return render_width(span_cstr(text));
}

struct table {
    const struct column *columns;
    size_t count, rows, room;
    const char **cells;
    size_t widths[COLUMNS_MAX];
};

void render_wrapped(struct span line, size_t indent, size_t width)
{
    const size_t inner = size_min(indent, width / 2);
    size_t room = size_max(width, 2);
    while (render_width(line) > room) {
        const struct span head = render_head(line, room);
        size_t len = head.len;
        while (len > 0 && line.ptr[len] != ' ')
            len--;
        if (len == 0) /* one long word */
            len = head.len;
        printf(SPAN_FMT "\n%*s", SPAN_ARG(span_head(line, len)), (int)inner, "");
        for (line = span_skip(line, len); line.len && line.ptr[0] == ' ';)
            line = span_skip(line, 1);
        room = size_max(width, 2) - inner;
    }
    printf(SPAN_FMT "\n", SPAN_ARG(line));
}

static bool is_prose(enum column_kind kind)
{
    return kind == COLUMN_PROSE || kind == COLUMN_AUDIT;
}

static void print_row(const struct table *table, const char *const *cells, size_t limit)
{
    struct buf line = BUF_INIT(1u << 20);
    enum err err = OK;
    for (size_t c = 0; !err && c < table->count; c++) {
        const bool last = c + 1 == table->count, right = right_aligned(table->columns[c].kind);
        const int pad = (int)(table->widths[c] - width_of(cells[c]));
        err = buf_printf(&line, "%*s%s%*s", right ? pad : 0, "", cells[c], right || last ? 0 : pad, "");
        if (!err && !last)
            err = buf_append_cstr(&line, "  ");
    }
    const struct span whole = buf_span(&line), head = render_head(whole, limit);
    size_t indent = 0;
    for (size_t c = 0; c + 1 < table->count; c++)
        indent += table->widths[c] + 2;
    if (err)
        printf("?\n");
    else if (head.len < whole.len && is_prose(table->columns[table->count - 1].kind))
        render_wrapped(whole, indent, limit);
    else if (head.len < whole.len)
        printf(SPAN_FMT "…\n", SPAN_ARG(render_head(whole, limit - 1)));
    else
        printf(SPAN_FMT "\n", SPAN_ARG(whole));
    buf_release(&line);
}

/* Paths that begin with '^' stand for members of the outer object. */
static bool is_outer(const struct column *column)
{
    return column->path[0] == '^';
}

/* One row; false when memory is out. */
static bool add_row(const struct cli *cli, const struct json_index *ix, uint32_t outer, uint32_t inner,
                    struct table *table)
{
    if (table->rows == table->room)
        return false;
    for (size_t c = 0; c < table->count; c++) {
        struct column column = table->columns[c];
        const uint32_t object = is_outer(&column) ? outer : inner;
        column.path += is_outer(&column);
        const char *cell = object == JSON_NONE ? "-" : render_cell(cli, ix, object, &column);
        table->cells[table->rows * table->count + c] = cell;
        table->widths[c] = size_max(table->widths[c], width_of(cell));
    }
    table->rows++;
    return true;
}

static void add_rows(const struct cli *cli, const struct json_index *ix, uint32_t array, const char *member,
                     struct table *table)
{
    for (uint32_t t = json_first(ix, array); t != JSON_NONE; t = json_next(ix, array, t)) {
        const uint32_t inner = member ? render_path(ix, t, member) : JSON_NONE;
        const bool nested = inner != JSON_NONE && json_kind(ix, inner) == JSON_ARRAY && ix->tokens[inner].count > 0;
        if (!nested && !add_row(cli, ix, t, member ? JSON_NONE : t, table))
            return;
        for (uint32_t k = nested ? json_first(ix, inner) : JSON_NONE; k != JSON_NONE; k = json_next(ix, inner, k)) {
            if (!add_row(cli, ix, t, k, table))
                return;
        }
    }
}

static size_t count_rows(const struct json_index *ix, uint32_t array, const char *member)
{
    size_t rows = 0;
    for (uint32_t t = json_first(ix, array); t != JSON_NONE; t = json_next(ix, array, t)) {
        const uint32_t inner = member ? render_path(ix, t, member) : JSON_NONE;
        rows += inner != JSON_NONE && json_kind(ix, inner) == JSON_ARRAY && ix->tokens[inner].count > 0
                    ? ix->tokens[inner].count
                    : 1;
    }
    return rows;
}

void render_nested(const struct cli *cli, const struct json_index *ix, uint32_t array, const char *member,
                   const struct column *columns, size_t count, const char *empty)
{
    struct arena *arena = (struct arena *)(uintptr_t)&cli->arena;
    struct table table = { .columns = columns, .count = count };
    const char *titles[COLUMNS_MAX];
    const size_t limit = terminal_width(cli);
    REQUIRE(count <= COLUMNS_MAX);
    if (array != JSON_NONE && json_kind(ix, array) == JSON_ARRAY)
        table.room = count_rows(ix, array, member);
    if (table.room == 0) {
        printf("%s\n", empty);
        return;
    }
    table.cells = ARENA_ARRAY(arena, table.room * count, const char *);
    if (!table.cells) {
        fprintf(stderr, "fairlead: out of memory for a table of %zu rows; --json prints it\n", table.room);
        return;
    }
    for (size_t c = 0; c < count; c++) {
        titles[c] = columns[c].title;
        table.widths[c] = width_of(titles[c]);
    }
    add_rows(cli, ix, array, member, &table);
    print_row(&table, titles, limit);
    for (size_t row = 0; row < table.rows; row++)
        print_row(&table, table.cells + row * count, limit);
}

void render_table(const struct cli *cli, const struct json_index *ix, uint32_t array, const struct column *columns,
                  size_t count, const char *empty)
{
    render_nested(cli, ix, array, NULL, columns, count, empty);
}

void render_fields(const struct cli *cli, const struct json_index *ix, uint32_t object, const struct column *columns,
                   size_t count)
{
    size_t width = 0;
    for (size_t c = 0; c < count; c++)
        width = size_max(width, strlen(columns[c].title));
    for (size_t c = 0; c < count; c++)
        printf("%-*s  %s\n", (int)width, columns[c].title, render_cell(cli, ix, object, &columns[c]));
}

void render_diagnostics(const struct cli *cli, const struct json_index *ix, uint32_t object, FILE *to)
{
    static const struct column parts[] = { { "", "file", COLUMN_TEXT },
                                           { "", "line", COLUMN_NUMBER },
                                           { "", "column", COLUMN_NUMBER },
                                           { "", "severity", COLUMN_TEXT },
                                           { "", "message", COLUMN_TEXT } };
    const uint32_t items = json_get(ix, object, SPAN("items"));
    if (items == JSON_NONE)
        return;
    for (uint32_t t = json_first(ix, items); t != JSON_NONE; t = json_next(ix, items, t)) {
        const char *cells[ARRAY_LEN(parts)];
        for (size_t i = 0; i < ARRAY_LEN(parts); i++)
            cells[i] = render_cell(cli, ix, t, &parts[i]);
        fprintf(to, "%s:%s:%s: %s: %s\n", cells[0], cells[1], cells[2], cells[3], cells[4]);
    }
}

void render_changes(const struct cli *cli, const struct json_index *ix, uint32_t array)
{
    static const struct column kind = { "", "kind", COLUMN_TEXT }, text = { "", "text", COLUMN_TEXT };
    if (array == JSON_NONE)
        return;
    for (uint32_t t = json_first(ix, array); t != JSON_NONE; t = json_next(ix, array, t)) {
        const char *word = render_cell(cli, ix, t, &kind);
        printf("  %c %s\n", *word == 'a' ? '+' : *word == 'r' ? '-' : '~', render_cell(cli, ix, t, &text));
    }
}

void render_json(struct span json)
{
    fwrite(json.ptr, 1, json.len, stdout);
    putchar('\n');
}

void render_done(const struct cli *cli, const struct admin_reply *reply)
{
    if (cli->json)
        render_json(reply->result);
    else
        printf("%s" SPAN_FMT "\n", cli->dry_run ? "dry run, nothing was changed: " : "", SPAN_ARG(reply->message));
}

void render_outcome(const struct cli *cli, const struct admin_reply *reply, const struct json_index *ix)
{
    const uint32_t diagnostics = json_get(ix, 0, SPAN("diagnostics"));
    if (!cli->json && diagnostics != JSON_NONE)
        render_diagnostics(cli, ix, diagnostics, stderr);
    if (!cli->json)
        render_changes(cli, ix, json_get(ix, 0, SPAN("changes")));
    render_done(cli, reply);
}
