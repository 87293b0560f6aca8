/* http1_target.h - request targets, hosts and expectations (RFC 9112 section 3.2, RFC 3986). Private to http1*.c and h2_head.c. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"
#include "dataplane/worker/http1.h"

/* A Host field's value or an authority without user name: a name or address, and perhaps a port. Empty is allowed (RFC
 * 9110 section 7.2). */
bool http1_host_ok(struct span host);

/* An Expect field's value: may set expect_continue, expect_unknown. */
void http1_read_expect(struct span value, struct http1_head *head);

/* Takes a request target apart; the target is not empty. path, query and, in absolute and authority form, authority.
 * ERR_SYNTAX. */
MUST_CHECK enum err http1_split_target(enum http1_method method, struct span target, struct span *ret_path,
                                       struct span *ret_query, struct span *ret_authority);
