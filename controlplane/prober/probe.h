/* probe.h - one probe of one provider: what is asked, and how the answer is judged. The only includers of curl in the
 * prober are probe.c and prober.c.
 *
 * Nothing that costs money is asked unless the target says `completion`: then one answer of one token. TLS is always
 * verified, redirects are never followed, connections are never reused (a probe that rides on an old connection does
 * not notice that new ones fail). A credential goes only to the hosts that node.yaml allows it for
 * (common/credentials); without one the question is asked all the same: 401 says that the provider is there.
 *
 * Judgement: no connection, no TLS, no answer in time, or a status of 500 and above is a failure; any other answer
 * shows that the provider is reachable. For a completion, 404 (no such model) fails too. */
#pragma once
#include "common/credentials.h"
#include "proto/links.h"
#include <curl/curl.h>

#define PROBE_BODY_BYTES_MAX (8u << 20) /* a list of models is some hundred KiB; stops an endless answer */
#define PROBE_CONNECT_MS     3000L

struct probe; /* one under way, or finished */

struct probe_setup {
    struct credentials *credentials;
    const char *ca_file; /* NULL: the system's */
    const char *user_agent;
};
struct probe_verdict {
    bool ok;
    char why[160];
    uint32_t latency_us;
    int64_t certificate_expires_at_ms; /* 0 unknown */
};

/* ERR_INVALID: such a target cannot be asked (*ret_why, static). ERR_NOMEM. Borrows nothing from the target. */
MUST_CHECK enum err probe_new(const struct probe_setup *setup, const struct probe_target *target, struct probe **ret,
                              const char **ret_why);
CURL *probe_handle(struct probe *probe); /* to be added to a multi; its private pointer is the probe's owner's */
struct probe_verdict probe_judge(struct probe *probe, CURLcode code);
void probe_free(struct probe *probe); /* after it has left its multi */
