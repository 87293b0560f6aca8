/* setup_tickets.h - resumed TLS sessions of a listener: any worker of the node takes the ticket that another has given,
 * also after a reload, as their keys stand on the board. A session goes on only under the rules it began under: the
 * listener's address, the certificates that clients' are verified by, and the teams these are mapped to. setup*.c only. */
#pragma once
#include "dataplane/worker/setup.h"

struct board;
/* Of setup->tls, when everything else of it is loaded. board NULL: keys of this setup's own, which end with it. ERR_NOMEM. */
MUST_CHECK enum err setup_tickets_share(struct listener_setup *setup, const struct listener_config *config,
                                        const struct board *board);
