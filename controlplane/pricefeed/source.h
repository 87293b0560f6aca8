/* source.h - where a catalog comes from: a file or an http(s) URL. Bounded in bytes and in time; redirects are not
 * followed, TLS is verified. */
#pragma once
#include "common/buf.h"
#include "common/err.h"
#include <signal.h>

#define SOURCE_CONNECT_MS 10000L
#define SOURCE_TOTAL_MS   120000L /* a slow line needs seconds for a megabyte; an endless answer must end */

struct source {
    const char *path; /* one of the two */
    const char *url;
    const volatile sig_atomic_t *stop; /* ends a download */
};
/* The path, or the URL without user, password, query and fragment, which may hold secrets: for logs and for the control
 * plane. malloc'd; NULL: out of memory. */
char *source_name(const struct source *source);
/* Appends the catalog's bytes (at most CATALOG_BYTES_MAX). On error why holds a reason for people. */
MUST_CHECK enum err source_read(const struct source *source, struct buf *text, char *why, size_t why_bytes);
