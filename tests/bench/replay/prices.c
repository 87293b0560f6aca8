#include "tests/bench/replay/prices.h"
#include "common/buf.h"
#include "common/file.h"
#include "common/json.h" /* json_decimal_text */

#define FILE_BYTES_MAX (1024u * 1024)
#define USD_MAX        1000000 /* per million tokens: a dollar a token is a slip */
#define NANO_DIGITS    9
#define MILLION        1000000u

__extension__ typedef unsigned __int128 wide; /* 10^15 nano-dollars x 2^64 tokens needs 114 bits */

static enum err read_usd(struct span text, int64_t *ret_nano)
{
    enum err err = json_decimal_text(span_trim(text), NANO_DIGITS, ret_nano);
    if (err != OK || *ret_nano < 0 || *ret_nano > USD_MAX * INT64_C(1000000000))
        return ERR_SYNTAX;
    return OK;
}

enum err prices_add(struct price_list *list, struct span text)
{
    struct price_entry entry = { .name = "" };
    struct span rest = text;
    struct span name, input;
    if (!span_split(&rest, '=', &name) || !span_split(&rest, ',', &input) || read_usd(input, &entry.input_nano) != OK ||
        read_usd(rest, &entry.output_nano) != OK)
        return ERR_SYNTAX;
    name = span_trim(name);
    if (name.len == 0 || name.len >= sizeof(entry.name))
        return ERR_SYNTAX;
    if (prices_find(list, name))
        return ERR_DUPLICATE;
    if (list->count == PRICES_MAX)
        return ERR_TOO_MANY;
    memcpy(entry.name, name.ptr, name.len);
    list->entries[list->count++] = entry;
    return OK;
}

enum err prices_read(struct price_list *list, const char *path, unsigned *ret_line)
{
    struct buf text = BUF_INIT(FILE_BYTES_MAX);
    unsigned number = 0;
    *ret_line = 0;
    enum err err = file_read(path, FILE_BYTES_MAX, &text);
    struct span rest = buf_span(&text);
    for (struct span line; err == OK && span_split(&rest, '\n', &line);) {
        number++;
        line = span_trim(span_head(line, span_find_byte(line, '#')));
        if (line.len > 0 && (err = prices_add(list, line)) != OK)
            *ret_line = number;
    }
    buf_release(&text);
    return err;
}

const struct price_entry *prices_find(const struct price_list *list, struct span name)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (span_eq(name, span_cstr(list->entries[i].name)))
            return &list->entries[i];
    }
    return NULL;
}

uint64_t prices_cost(const struct price_entry *price, uint64_t input_tokens, uint64_t output_tokens)
{
    wide sum = (wide)(uint64_t)price->input_nano * input_tokens + (wide)(uint64_t)price->output_nano * output_tokens;
    sum = (sum + MILLION - 1) / MILLION;
    return sum > UINT64_MAX ? UINT64_MAX : (uint64_t)sum;
}
