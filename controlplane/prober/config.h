/* config.h - what the prober reads of node.yaml: credentials and ca_file. The rest of the file is the data plane's,
 * which judges it. */
#pragma once
#include "common/base.h"
#include "common/credentials.h"
#include "common/err.h"

#define CONFIG_BYTES_MAX (1u << 20) /* written by people */

struct prober_config {
    struct credentials *credentials; /* never NULL after a load */
    char *ca_file;                   /* NULL: the system's */
};
/* path NULL: no file, everything at its default. ERR_INVALID and others: *ret_message (malloc'd, or NULL) says
 * file:line:column: text. */
MUST_CHECK enum err prober_config_load(const char *path, struct prober_config *ret, char **ret_message);
void prober_config_release(struct prober_config *config);
