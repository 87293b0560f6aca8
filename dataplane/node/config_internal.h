/* config_internal.h - what the files of config.h share: where a fault stands, and the settings that are more than one
 * value. */
#pragma once
#include "common/yaml.h"
#include "dataplane/node/config.h"

struct config_reading { /* of one file */
    const char *file;
    char **message;
    bool failed; /* a fault of the text was told */
};

/* Replaces *ret_message. Returns ERR_INVALID, or ERR_NOMEM. */
enum err config_complain(char **ret_message, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The same with file:line:column before it. */
MUST_CHECK enum err config_fault_at(const struct config_reading *reading, const struct yaml_node *node, const char *fmt,
                                    ...) PRINTF_LIKE(3, 4);
/* "unknown field 'PREFIXKEY'", with the nearest of the `count` known ones. */
MUST_CHECK enum err config_unknown_field(const struct config_reading *reading, const struct yaml_node *key,
                                         const char *prefix, const char *const *known, size_t count);
MUST_CHECK enum err config_set_text(char **at, struct span text); /* frees what stood there. ERR_NOMEM */
bool config_printable(struct span text);                          /* ASCII without spaces, not empty */

/* Replaces all listeners by plain ones on these addresses; on error they are as before. ERR_INVALID, ERR_NOMEM. */
MUST_CHECK enum err config_listen(struct node_config *config, const struct span *addresses, size_t count,
                                  char **ret_message);
MUST_CHECK enum err config_read_listeners(const struct config_reading *reading, struct node_config *config,
                                          const struct yaml_node *value);
void config_release_listeners(struct node_config *config);
extern const char config_listeners_text[]; /* the fields of a listener, for --help-config */

MUST_CHECK enum err config_set_resolvers(struct node_config *config, const struct span *addresses, size_t count,
                                         char **ret_message);
MUST_CHECK enum err config_read_resolvers(const struct config_reading *reading, struct node_config *config,
                                          const struct yaml_node *value);
