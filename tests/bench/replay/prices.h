/* prices.h - what models charge, to reckon what another choice would have cost. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define PRICES_MAX        64 /* rows of a table that people read */
#define PRICES_NAME_BYTES 256

struct price_entry {
    char name[PRICES_NAME_BYTES];
    int64_t input_nano; /* nano-dollars per million tokens */
    int64_t output_nano;
};

struct price_list {
    struct price_entry entries[PRICES_MAX];
    unsigned count;
};

/* "provider/model=0.15,0.60": US dollars per million input and output tokens. ERR_SYNTAX, ERR_TOO_MANY, ERR_DUPLICATE.
 */
MUST_CHECK enum err prices_add(struct price_list *list, struct span text);
/* One such entry a line; empty lines and what follows '#' do not count. *ret_line: the wrong one, or 0 when the file
 * cannot be read. Errors of prices_add and file_read. */
MUST_CHECK enum err prices_read(struct price_list *list, const char *path, unsigned *ret_line);
const struct price_entry *prices_find(const struct price_list *list, struct span name); /* NULL: not listed */
/* Nano-dollars of one request, rounded up once, as Fairlead charges it. */
uint64_t prices_cost(const struct price_entry *price, uint64_t input_tokens, uint64_t output_tokens);
