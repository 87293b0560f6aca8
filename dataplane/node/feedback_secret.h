/* feedback_secret.h - the secret by which request ids are signed (proto/request_id): what `feedback_secret` of node.yaml
 * says, else the file feedback.secret in the home. Nodes that clients reach by one address must share it: feedback may
 * come to another node than the request did. */
#pragma once
#include "dataplane/node/config.h"
#include "proto/request_id.h"

/* Master, once it has the home: makes the home's file (0600) when that is used and is not there. Then reads the secret,
 * so that one that cannot be had is said at the start. ERR_NOT_FOUND: the variable or the file is not there, or empty.
 * ERR_TOO_LARGE, ERR_DENIED, ERR_IO, ERR_NOSPACE, ERR_NOMEM. */
MUST_CHECK enum err feedback_secret_prepare(const struct node_config *config);
/* Worker. Errors as above. */
MUST_CHECK enum err feedback_secret_key(const struct node_config *config, struct request_id_key *ret);
