/* setup_tls.h - the TLS of a listener's setup: its files read; setup.c's only. */
#pragma once
#include "dataplane/worker/setup.h"

/* As listener_setup_load. `setup` must stay where it is. */
MUST_CHECK enum err setup_tls_load(struct listener_setup *setup, const struct listener_config *config,
                                   char **ret_message);
void setup_tls_free(struct listener_setup *setup);
