/* credentials.h - maps credential names to secrets and to the hosts they may be sent to. Read from a node's own
 * configuration, so that an author of policies cannot send a key elsewhere. Used by the data plane and the prober.
 *
 * Configuration (part of node.yaml):
 *   credentials:
 *     openai-a: {from: env:OPENAI_API_KEY, hosts: [api.openai.com]}
 *     azure:    {from: file:/run/secrets/azure, hosts: ["*.openai.azure.com"]}
 * Secrets are trimmed of trailing newlines, must be printable ASCII, at most CREDENTIAL_BYTES_MAX; kept out of core
 * dumps (MADV_DONTDUMP), wiped on release, never logged. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include "common/span.h"

#define CREDENTIAL_BYTES_MAX 8192u /* a header that servers still take */

struct credentials;
struct yaml_node;

MUST_CHECK enum err credentials_new(struct credentials **ret);
void credentials_free(struct credentials *credentials); /* wipes; NULL is fine */
/* Declares one. from: "env:NAME" or "file:PATH". hosts: exact names or "*.suffix". ERR_INVALID (and *ret_why, static),
 * ERR_EXISTS, ERR_NOMEM. */
MUST_CHECK enum err credentials_add(struct credentials *credentials, struct span name, struct span from,
                                    const struct span *hosts, unsigned host_count, const char **ret_why);
/* Reads all sources again (files by their mtime and size first). Returns how many changed. */
unsigned credentials_refresh(struct credentials *credentials);
/* The secret, valid until the next refresh. ERR_NOT_FOUND: no such name. ERR_DENIED: may not be sent to this host.
 * ERR_UNAUTHORIZED: its source has nothing. */
MUST_CHECK enum err credentials_get(struct credentials *credentials, struct span name, struct span host,
                                    struct span *ret_secret);
/* Declares all of a `credentials:` map (NULL: none) as it stands in node.yaml. ERR_INVALID: *ret_node is where it is
 * wrong and *ret_why (static) says why; what was declared before it stays. ERR_NOMEM. */
MUST_CHECK enum err credentials_from_yaml(struct credentials *credentials, const struct yaml_node *map,
                                          const struct yaml_node **ret_node, const char **ret_why);
bool credentials_resolved(const struct credentials *credentials, struct span name);
unsigned credentials_count(const struct credentials *credentials);
struct span credentials_name(const struct credentials *credentials, unsigned index);
