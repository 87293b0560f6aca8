/* limits.h - limits that two processes must agree on. Each says which accident or attack it stops. */
#pragma once

#define TABLE_SCHEMA_LEAST 1 /* oldest object schema that this build reads */
#define TABLE_SCHEMA       1 /* the one it writes */

#define FRAME_BYTES_MAX              (64u << 20) /* one message on a link: a peer cannot make us buffer more (nng RECVMAXSZ) */
#define FRAME_OVERHEAD_BYTES         64u /* of them not for the message: our magic and nng's request ids, with room */
#define ARTIFACT_BYTES_MAX           (48u << 20) /* 100,000 routes with room; fits a frame */
#define HEAD_BYTES_MAX               (1u << 20)  /* a head is small: arms and overrides */
#define EVIDENCE_BYTES_MAX           (16u << 20)
#define TEAMS_BYTES_MAX              (16u << 20)
#define DIRECTORY_DELTA_BYTES_MAX    (60u << 20)           /* teams and one page of keys; fits a frame */
#define KEY_RECORD_BYTES_MAX         (64u << 10)           /* one key's routes and tags; each request decodes it */
#define DIRECTORY_PAGE_KEYS          20000u                /* keys in one page of a full resync: bounds the frame */
#define ARTIFACTS_KEPT               8u                    /* per node: rollback without a fetch */
#define ARTIFACTS_HELD               (3u * ARTIFACTS_KEPT) /* a head's, the one before it, and what came ahead of the next */
#define NAME_BYTES_MAX               200u /* a provider, model, route, team or key id; longer ones break tables people read */
#define PROVIDERS_MAX                1000u
#define MODELS_MAX                   4000u /* board slots are per model */
#define ROUTES_MAX                   200000u
#define TIERS_MAX                    8u             /* more than any deadline lets one request walk */
#define TIER_MEMBERS_MAX             64u            /* bounds selection work an attacker can cause with one request */
#define ARMS_MAX                     ARTIFACTS_KEPT /* each may need an artifact of its own, and a node keeps no more */
#define ASSIGNMENTS_MAX              8u             /* a request looks through all of them */
#define ASSIGNMENT_RANGES_MAX        64u /* in one: a request walks them; arms grow by one range each and seldom by two */
#define ASSIGNED_ROUTES_MAX          1000u /* in one assignment or shadow; more are all of them */
#define SHADOWS_MAX                  4u    /* one request never becomes more than this many others */
#define CONTENT_TEAMS_MAX            100u /* whose words are recorded: an exception, and each request looks through it */
#define CONTENT_BYTES_MAX            4096u /* of a prompt, of an answer: both stand in one line of the records */
#define OVERRIDES_MAX                1000u
#define TEAMS_MAX                    100000u
#define ATTEMPTS_MAX                 8u /* one request never costs more upstream calls than this */
#define CREDENTIALS_PER_PROVIDER_MAX 16u
#define IPC_PATH_BYTES_MAX           107u /* sockaddr_un less its NUL; nng refuses from 120 on, too late to say why */
#define RECORDS_BATCH_BYTES_MAX      (1u << 20) /* one node's backlog must not keep the control plane from the others */
#define ADMIN_RESULT_BYTES_MAX       (32u << 20)
#define PUSH_BYTES_MAX               (32u << 20) /* a policy with its includes */
#define NODE_WORKERS_MAX             64u
#define NODE_LISTENERS_MAX           16u  /* descriptors handed to a worker in one message */
#define NODE_REGIONS_MAX             256u /* worker processes at once, those that drain included */

/* Elements in one message: a small frame must not stand for a huge table. */
#define NAMES_MAX                10000u /* routes, models or regions in one list of names */
#define HEADERS_PER_PROVIDER_MAX 100u
#define TAGS_MAX                 100u                          /* on one key */
#define EVIDENCE_MODELS_MAX      (MODELS_MAX * ARTIFACTS_KEPT) /* one evidence speaks for all live artifacts */
#define EVIDENCE_WEIGHTS_MAX     (ROUTES_MAX * TIERS_MAX)
#define PROBES_MAX               (PROVIDERS_MAX + MODELS_MAX) /* in one report, and targets of one prober */
#define CATALOG_ENTRIES_MAX      100000u                      /* public catalogs hold a few thousand */
#define TELEMETRY_BUCKETS_MAX    8192u                        /* of one histogram */
#define NACKS_MAX                64u                          /* the present ones of one node */
#define FETCH_OBJECTS_MAX        16u                          /* artifacts kept, head, evidence, directory */
#define ADMIN_ARGS_MAX           1000u                        /* a policy with its includes is one file an argument */
