#include "admin-cli/cli.h"
#include "common/clock.h"
#include "common/units.h"
#include <sys/ioctl.h>
#include <unistd.h>

#define COLUMNS_MAX    16u
#define CELL_BYTES_MAX 400u /* one value cannot push the others off the screen */

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

/* What is printed on a terminal never carries control bytes of somebody's text. */
static const char *printable(struct arena *arena, struct span text)
{
    const struct span copy = arena_dup(arena, span_head(text, CELL_BYTES_MAX));
    if (!copy.ptr)
        return "?";
    char *at = (char *)(uintptr_t)copy.ptr; /* our own copy */
    for (size_t i = 0; i < copy.len; i++) {
        if ((unsigned char)at[i] < ' ' || at[i] == 0x7f)
            at[i] = ' ';
    }
    return copy.ptr;
}

static const char *text_of(struct arena *arena, const struct json_index *ix, uint32_t token)
{
    struct span text;
    switch (json_kind(ix, token)) {
    case JSON_STRING:
        return json_string(arena, ix, token, &text) == OK ? printable(arena, text) : "?";
    case JSON_NULL:
        return "-";
    case JSON_TRUE:
        return "yes";
    case JSON_FALSE:
        return "no";
    case JSON_NUMBER:
    case JSON_ARRAY:
    case JSON_OBJECT:
        return printable(arena, json_raw(ix, token));
    }
    return "?";
}

static const char *list_of(struct arena *arena, const struct json_index *ix, uint32_t token)
{
    struct buf out = BUF_INIT(CELL_BYTES_MAX);
    const bool object = json_kind(ix, token) == JSON_OBJECT;
    enum err err = OK;
    for (uint32_t t = json_first(ix, token); !err && t != JSON_NONE; t = json_next(ix, token, t)) {
        if (out.len)
            err = buf_append_byte(&out, ',');
        if (!err)
            err = buf_append_cstr(&out, text_of(arena, ix, t));
        if (object && !err) {
            t = json_next(ix, token, t);
            err = buf_printf(&out, "=%s", text_of(arena, ix, t));
        }
    }
    const struct span copy = arena_dup(arena, buf_span(&out));
    buf_release(&out);
    return copy.ptr && copy.len ? copy.ptr : "-";
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

static const char *number_cell(struct arena *arena, enum column_kind kind, int64_t number)
{
    char text[64];
    if ((kind == COLUMN_AGE || kind == COLUMN_UNTIL || kind == COLUMN_TIME) && number == 0)
        return "-";
    if (kind == COLUMN_AGE)
        return age_of(arena, clock_wall_ms() - number);
    if (kind == COLUMN_UNTIL)
        return number <= clock_wall_ms() ? "expired"
                                         : arena_printf(arena, "in %s", age_of(arena, number - clock_wall_ms()));
    if (kind == COLUMN_MS)
        return age_of(arena, number);
    if (kind == COLUMN_TIME)
        return arena_printf(arena, "%.19sZ", clock_format_wall(number, text));
    if (kind == COLUMN_USD_MTOK) /* nano-dollars per million tokens */
        return arena_printf(arena, "%s", units_format_usd(number, text));
    if (kind == COLUMN_SHARE) /* ppm */
        return arena_printf(arena, "%.1f%%", (double)number / 1e4);
    return arena_printf(arena, "%lld", (long long)number);
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
    else if (column->kind == COLUMN_TEXT || json_i64(ix, token, &number) != OK)
        text = text_of(arena, ix, token);
    else
        text = number_cell(arena, column->kind, number);
    return text ? (*text ? text : "-") : "?";
}

static size_t terminal_width(const struct cli *cli)
{
    struct winsize size;
    if (!cli->terminal || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 40)
        return SIZE_MAX;
    return size.ws_col;
}

static bool right_aligned(enum column_kind kind)
{
    return kind == COLUMN_NUMBER || kind == COLUMN_SHARE || kind == COLUMN_USD_MTOK;
}

/* Columns in a UTF-8 text: continuation bytes take none. */
static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void print_row(const char *const *cells, const size_t *widths, const struct column *columns, size_t count,
                      size_t limit)
{
    size_t at = 0;
    for (size_t c = 0; c < count; c++) {
        const size_t width = width_of(cells[c]);
        const size_t pad = widths[c] > width ? widths[c] - width : 0;
        const bool last = c + 1 == count;
        if (last && limit != SIZE_MAX && at + width > limit && limit > at) {
            printf("%.*s\n", (int)(limit - at), cells[c]);
            return;
        }
        if (right_aligned(columns[c].kind))
            printf("%*s%s", (int)pad, "", cells[c]);
        else
            printf("%s%*s", cells[c], last ? 0 : (int)pad, "");
        at += widths[c] + 2;
        printf(last ? "\n" : "  ");
    }
}

void render_table(const struct cli *cli, const struct json_index *ix, uint32_t array, const struct column *columns,
                  size_t count, const char *empty)
{
    struct arena *arena = (struct arena *)(uintptr_t)&cli->arena;
    size_t widths[COLUMNS_MAX];
    const char *titles[COLUMNS_MAX];
    REQUIRE(count <= COLUMNS_MAX);
    const size_t rows = array == JSON_NONE || json_kind(ix, array) != JSON_ARRAY ? 0 : ix->tokens[array].count;
    const char **cells = ARENA_ARRAY(arena, rows * count + 1, const char *);
    if (rows == 0 || !cells) {
        printf("%s\n", empty);
        return;
    }
    for (size_t c = 0; c < count; c++) {
        titles[c] = columns[c].title;
        widths[c] = strlen(columns[c].title);
    }
    size_t row = 0;
    for (uint32_t t = json_first(ix, array); t != JSON_NONE; t = json_next(ix, array, t), row++) {
        for (size_t c = 0; c < count; c++) {
            cells[row * count + c] = render_cell(cli, ix, t, &columns[c]);
            widths[c] = size_max(widths[c], width_of(cells[row * count + c]));
        }
    }
    print_row(titles, widths, columns, count, SIZE_MAX);
    for (row = 0; row < rows; row++)
        print_row(cells + row * count, widths, columns, count, terminal_width(cli));
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
