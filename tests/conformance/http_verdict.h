/* http_verdict.h - what the HTTP parser makes of some bytes, in one line, however they are cut. */
#pragma once
#include "common/buf.h"
#include "dataplane/worker/http1.h"

/* Feeds bytes[0..cut) and then the rest, each from memory of exactly its size, and writes the verdict into `out`
 * (emptied first): "accept: ..." with each message's first line, headers and body, or "reject: ...". True: accepted. A
 * message cut short of its end is accepted. */
bool http_verdict(enum http1_kind kind, struct span bytes, size_t cut, struct buf *out);
