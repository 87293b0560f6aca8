/* fetch.h - one page over plain HTTP, for programs that wait: a node's operations address. */
#pragma once
#include "common/buf.h"
#include "common/err.h"

/* Whether it is written as one: "HOST:PORT". */
bool fetch_is_address(const char *address);

/* GET path of "HOST:PORT" ("[::1]:PORT"), bounded in time and bytes (out's maximum); appends the body of a 200.
 * ERR_INVALID (the address), ERR_NOT_FOUND (the name, or no such page), ERR_REFUSED, ERR_TIMEOUT, ERR_CORRUPT (no HTTP),
 * ERR_FULL, ERR_NOMEM, ERR_IO. */
MUST_CHECK enum err fetch_page(const char *address, const char *path, unsigned timeout_ms, struct buf *out);
