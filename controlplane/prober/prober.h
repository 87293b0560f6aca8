/* prober.h - the prober's loop: asks the control plane what to probe, probes each target on its interval, reports what
 * it found.
 *
 * One thread; curl_multi_poll waits for probes, signals (a signalfd) and the link (its wake-ups are curl_multi_wakeup).
 * Results go up once a second; a report that was not answered goes again with the same sequence number, which the
 * control plane recognises. Targets come with every reply. */
#pragma once
#include "common/base.h"
#include "common/credentials.h"
#include "common/err.h"

#define PROBER_REPORT_MS      1000u /* results wait at most this long */
#define PROBER_HELLO_MS       3000u /* without results: targets may have changed */
#define PROBER_ASK_TIMEOUT_MS 10000u
#define PROBER_RESULTS_MAX    5000u /* kept while the control plane is away; the oldest are worth least, and dropped */
#define PROBER_AT_ONCE_MAX    64u   /* probes under way: a thousand providers do not need a thousand sockets */

struct prober_options {
    const char *address; /* of the evidence link */
    struct credentials *credentials;
    const char *ca_file;
    bool once; /* every target once, report, end */
};
/* OK: ended by SIGTERM or SIGINT, or all done with `once`. ERR_TIMEOUT: `once`, and the control plane did not answer.
 */
MUST_CHECK enum err prober_run(const struct prober_options *options);
