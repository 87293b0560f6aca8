/* home.h - where things stand in a home directory, for every program that shares one. All relative to the home; run/ is
 * 0700. */
#pragma once

#define HOME_RUN             "run"
#define HOME_FETCH_SOCKET    "run/fetch.ipc"    /* nodes fetch tables */
#define HOME_EVIDENCE_SOCKET "run/evidence.ipc" /* prober, pricefeed and nodes report */
#define HOME_ADMIN_SOCKET    "run/admin.ipc"    /* the CLI */
#define HOME_NODE_SOCKET     "run/node.sock"    /* workers talk to their master */
#define HOME_NODE_STORE      "db/node"
#define HOME_CONTROL_STORE   "db/control"
#define HOME_NODE_LOCK       "run/node.lock" /* held by the master; its pid is in it */
#define HOME_CONTROL_LOCK    "run/control.lock"
#define HOME_PROBER_LOCK     "run/prober.lock"
#define HOME_PRICEFEED_LOCK  "run/pricefeed.lock"
#define HOME_UP_LOCK         "run/up.lock"     /* held by `fairlead up` */
#define HOME_CONTROL_EVENTS  "control/events"  /* what happened lately, JSON lines */
#define HOME_RECORDS         "records"         /* JSON-lines segments */
#define HOME_CONTROL_RECORDS "control/records" /* of all nodes, as they shipped them */
#define HOME_LOG_DIR         "log"             /* of a detached `fairlead up` */
#define HOME_SIMULATIONS     "run/simulations" /* a directory for each that runs */
#define HOME_NODE_CONFIG     "node.yaml"
#define HOME_NODE_COPY       "run/node.yaml"   /* of the configuration in force; workers read this one */
#define HOME_FEEDBACK_SECRET "feedback.secret" /* by which request ids are signed; 0600 */
#define HOME_POLICY          "policy.yaml"
#define HOME_ROLES           "roles.yaml" /* who may do what on the admin link */
#define HOME_DIRECTORY       "directory.yaml"
#define HOME_PRICES          "prices.yaml" /* a catalog for the price feed; else the one that ships with Fairlead */
