/* trace.h - reads request traces: when each request arrived and how many tokens it had.
 *
 * Two forms, told apart by their first line, each plain or gzipped (by the name's ".gz", through the gzip program):
 *   Azure LLM inference traces   CSV: TIMESTAMP,ContextTokens,GeneratedTokens; "2023-11-16 18:15:46.6805900"
 *   Mooncake traces              JSON lines: {"timestamp": ms, "input_length": n, "output_length": n, ...} */
#pragma once
#include "common/base.h"
#include "common/err.h"

#define TRACE_ROWS_MAX   4000000u /* some hundred MB with what is kept of each request */
#define TRACE_TOKENS_MAX 1000000u /* what fakellm takes; more is a damaged row */

struct trace_row {
    uint64_t at_ns; /* after the first row of the trace */
    uint32_t input_tokens;
    uint32_t output_tokens; /* at least 1: an answer without content would be a failed one */
};

/* Which rows. Both conditions hold. All-zero and UINT64_MAX: everything. */
struct trace_slice {
    uint64_t first_row; /* from 0 */
    uint64_t rows;
    uint64_t from_ns;
    uint64_t for_ns;
};

struct trace {
    struct trace_row *rows;
    size_t count;
};

/* ERR_NOT_FOUND: no such file. ERR_SYNTAX, ERR_INVALID (not in order of time), ERR_TOO_MANY, ERR_IO, ERR_NOMEM.
 * why (why_bytes long) then says what is wrong, and in which line. *ret is to be released after success only. */
MUST_CHECK enum err trace_read(const char *path, const struct trace_slice *slice, struct trace *ret, char *why,
                               size_t why_bytes);
void trace_release(struct trace *trace);
