/* exchange_internal.h - the inside of one request's life, shared by exchange*.c only.
 *
 *   exchange.c          states, begin, body, the timer, the end
 *   exchange_plan.c     auth, ask, arm, admit, select
 *   exchange_attempt.c  one try: its start, its failure, what follows from it
 *   exchange_relay.c    what comes back: streams, whole answers, errors passed on
 *   exchange_settle.c   counters and the record, exactly once
 *   exchange_content.c  prompt and answer, for teams whose records hold them
 *   exchange_explain.c  x-fairlead-explain, for those who ask
 *   exchange_models.c   GET /v1/models
 *   exchange_feedback.c POST /v1/feedback
 *   exchange_shadow.c   the same once more under another arm, for nobody */
#pragma once
#include "common/arena.h"
#include "common/sse.h"
#include "dataplane/account/ledger.h"
#include "dataplane/dialect/event_mold.h"
#include "dataplane/dialect/openai_chat.h"
#include "dataplane/route/arms.h"
#include "dataplane/route/auth.h"
#include "dataplane/route/breaker.h"
#include "dataplane/route/select.h"
#include "dataplane/worker/deadline.h"
#include "dataplane/worker/exchange.h"
#include "dataplane/worker/reply.h"
#include "proto/request_id.h"

#define EXCHANGE_ARENA_BYTES (1u << 20) /* heads, plan, messages: no request needs more; one that does is refused */
#define EXCHANGE_ASK_BYTES                                                                                             \
    (128u << 20) /* the index of the largest body, with the arrays it outgrew; freed with the body */
#define EXCHANGE_FACTS_BYTES   (32u << 20) /* the index of an unstreamed answer's upper levels */
#define EXCHANGE_BODY_AT_ONCE  (1u << 20) /* room made for an announced body before it comes: an announcement is cheap */
#define EXCHANGE_ANSWER_BYTES  (64u << 20)  /* an unstreamed answer is held whole until it is known to be one */
#define EXCHANGE_ERROR_BYTES   (1u << 20)   /* an error's body from a provider */
#define EXCHANGE_HELD_BYTES    (256u << 10) /* opening events before content: role, pings, comments */
#define EXCHANGE_EVENT_BYTES   (4u << 20)   /* one event; images come whole in one */
#define EXCHANGE_DOWN_BYTES    (16u << 10)  /* a provider's headers that come down */
#define EXCHANGE_REFUSAL_BYTES (256u << 10) /* an error of ours, with the message that explains a plan */
#define EXCHANGE_HEAD_BYTES    (64u << 10)  /* a provider's response head */
#define EXCHANGE_SPARE_MAX     64u          /* kept for the next requests; more are freed */
#define EXCHANGE_WHOLE_IDLES                                                                                           \
    10u /* an unstreamed answer shows nothing while it is made: it gets first_token + this many times idle */
#define EXCHANGE_TAIL_MS                                                                                               \
    1000u /* after [DONE], for the end of the upstream's message: then its connection is given up. The client does not  \
             wait for it */

enum exchange_state {
    EXCHANGE_IDLE,
    EXCHANGE_READING,   /* let in; its body is coming */
    EXCHANGE_TRYING,    /* sent upstream; no head yet */
    EXCHANGE_HOLDING,   /* a stream's opening events, no content yet */
    EXCHANGE_GATHERING, /* a whole body, or an error's */
    EXCHANGE_RELAYING,  /* content flows to the client */
    EXCHANGE_RETRYING,  /* the next attempt starts in the next turn */
    EXCHANGE_TAILING,   /* settled, the client has all; the end of the upstream's message is awaited */
    EXCHANGE_SETTLED,
    EXCHANGE_STATES
};

struct attempt {
    uint32_t label; /* board's id of the model */
    const struct model *model;
    const struct provider *provider;
    struct timeouts timeouts;
    struct board_model *shared;
    enum breaker_pass pass; /* REFUSED: no verdict is owed (any more) */
    bool running;           /* its inflight count and retry place are held */
    bool holds_place;       /* in the retry budget */
    struct upstream *upstream;
    enum upstream_phase phase; /* how far it came, kept when upstream is gone */
    struct openai_chat_body body;
    uint32_t credential;       /* index of the one in use */
    uint32_t credentials_left; /* not tried yet at this provider, for this request */
    struct span secret;        /* the header that holds it, in arena: wiped when the attempt ends */
    uint64_t started_ns, content_ns;
    unsigned status;
    bool event_stream;
    uint32_t retry_after_ms;
    struct span content_type; /* in arena */
};

struct exchange {
    struct core *core;
    struct sink *sink;
    struct exchange_shadow *shadow; /* what it repeats; NULL: it is a client's */
    struct exchange *next;          /* spare, or tailing */
    struct upstream *tail;          /* read to its end for nobody, so that its connection can serve again */
    enum exchange_state state;
    struct deadline timer;
    const char *refusal; /* what the client was told, in the arena; for the record */
    struct arena arena;
    struct arena ask_arena; /* goes with the body */

    /* The client's side. */
    const struct http1_head *head;
    struct header_pair *headers;
    struct openai_chat_place place;
    char request_id[REQUEST_ID_BYTES]; /* signed for the team once it is known */
    bool close;                        /* no further request on this connection: our own wish, not the client's */
    bool head_sent;                    /* of a stream */
    bool early_head;                   /* before content, as holding took long: no model could be named */
    bool content_seen;                 /* first content has gone to the client: nothing is tried again */
    bool paused;                       /* upstream, because the client is slow */
    unsigned status_sent;
    uint64_t output_bytes, input_bytes;
    struct buf body;
    size_t accounted; /* of what is held for it, charged to the worker */

    /* What was decided. */
    struct table *table;        /* pinned */
    const struct arm_view *arm; /* the stable one until the body was read and its own was chosen */
    bool arm_chosen;
    struct arm_choice choice; /* valid with arm_chosen */
    struct span forced_arm;   /* the client's wish, in the head; ptr NULL: none */
    struct key_record *key;
    struct auth_principal principal;
    struct ask ask;
    bool asked;              /* `ask` was read */
    struct span asked_model; /* in arena: survives the body */
    struct resolved target;
    struct content *content; /* what the records will hold of prompt and answer; NULL, nearly always: nothing */
    struct plan plan;        /* `all` is of the first one, as everybody was still to be had */
    bool explain;            /* the client asked for it by its header, and may */
    uint32_t next_step;
    bool again;                   /* the same step once more, with another credential */
    uint32_t tried[ATTEMPTS_MAX]; /* model indices, each once */
    uint32_t tried_count, replans;
    int64_t spent_nano;   /* estimates of failed attempts that their providers may bill */
    int64_t refused_nano; /* estimate of the cheapest attempt that the route's ceiling forbade after those; 0: none */
    uint32_t last_label;  /* of the newest attempt: where a failover from it, and the request, are counted */
    const struct model *last_model;

    /* The attempts. */
    struct attempt attempt;
    struct ledger_attempt rows[ATTEMPTS_MAX];
    unsigned attempts;
    enum retry_failure last_failure;
    unsigned last_status;
    uint32_t retry_after_ms; /* the least that a failed attempt was told; 0: none was */
    struct buf answer;       /* held events, or the gathered body */
    struct buf down;         /* header lines that come down, of this attempt */
    struct sse_framer framer;
    bool framing;
    struct event_mold mold; /* of the last event with content */
    bool feed_failed;       /* an event ended the attempt: handled after the feed */
    enum retry_failure feed_failure;
    char *feed_message;
    bool done_seen, finished;
    enum finish finish;
    struct usage usage;
    uint64_t content_bytes;
    const struct price *price;
    struct cost cost;

    /* Moments, in uv_now's ms; DEADLINE_NONE: not waited for. */
    uint64_t first_due, idle_due, total_due, content_due, hold_due, tail_due;
    int64_t wall_ms;
    uint64_t began_ns, busy_since_ns, overhead_ns, first_content_ns, ttft_us;
};

struct exchange *exchange_take(struct core *core); /* all-zero but for what it keeps; NULL: out of memory */
const char *exchange_state_name(enum exchange_state state);
void exchange_go(struct exchange *x, enum exchange_state to); /* asserts that the edge is legal */
void exchange_rearm(struct exchange *x);                      /* the timer to the nearest moment */
/* The request's own work begins and rests: see overhead in exchange.h. */
void exchange_busy(struct exchange *x, uint64_t since_ns);
void exchange_rest(struct exchange *x);
void exchange_free_body(struct exchange *x); /* body, its index, and what was made of them */
void exchange_account(struct exchange *x);   /* after anything that takes memory, or gives it back */
/* Ends with an error: a response, or an event when the head has gone out. message may be NULL. */
void exchange_refuse(struct exchange *x, const struct reply_error *error);
void exchange_refuse_with(struct exchange *x, enum outcome outcome, const char *message);
/* OPTIONS * (RFC 9110 section 9.3.7): what the server as a whole takes, told to anybody; ends it. */
void exchange_tell_methods(struct exchange *x);
/* Settles, tells the sink, gives the exchange back. */
void exchange_finish(struct exchange *x, enum outcome outcome, const char *error, bool abort);
/* x-request-id and x-fairlead-* lines. ended: this is the whole answer, so its cost is known. */
MUST_CHECK enum err exchange_own_headers(struct exchange *x, bool ended, struct buf *out);
/* A complete answer with what stands in core->lines; the body is taken over. On error nothing was sent. */
MUST_CHECK enum err exchange_send_whole(struct exchange *x, unsigned status, struct span type, struct buf *body);
/* The tail has ended (x->tail NULL), or is cut here. */
void exchange_tail_over(struct exchange *x);

/* exchange_plan.c */
bool exchange_let_in(struct exchange *x); /* false: it was refused, and ended */
/* Everything planned has failed: what was left aside (ejected, down, being probed) may serve after all. False: nothing
 * is left, or may be tried. */
bool exchange_plan_again(struct exchange *x);
bool exchange_decide(struct exchange *x); /* the body is whole: false: refused, and ended */

struct live;
/* What select decides by now. live: filled here; it must last as long as the input is used. */
struct select_input exchange_select_input(struct exchange *x, struct live *live);

/* exchange_explain.c */
/* The answer's line of that name, when it is wanted: what is known by now. ERR_NOMEM. */
MUST_CHECK enum err exchange_explain(struct exchange *x, struct buf *out);

/* exchange_attempt.c */
/* Attempts of all kinds that one request may make. */
uint32_t exchange_attempts_max(const struct exchange *x);
/* An attempt of this estimate would pass the route's ceiling. */
void exchange_note_ceiling(struct exchange *x, int64_t estimate_nano);
void exchange_next_attempt(struct exchange *x); /* starts it, or ends the exchange */
/* content: first content has come (a success for the breaker). */
void exchange_attempt_succeeded(struct exchange *x);
/* The attempt is over without having served; goes on with the next, passes on, or ends. */
void exchange_attempt_failed(struct exchange *x, enum retry_failure failure);
void exchange_attempt_broke(struct exchange *x);   /* it broke off after content: counted against the model */
void exchange_attempt_overdue(struct exchange *x); /* the whole request's deadline passed before content */
void exchange_attempt_close(struct exchange *x, const char *error); /* gives back what it held; idempotent */
void exchange_attempt_abandon(struct exchange *x);                  /* the client left, or we end */

/* The arm's counters in this worker's region. */
struct board_arm *exchange_arm(const struct exchange *x);

/* exchange_relay.c */
extern const struct upstream_events exchange_upstream_events;
/* Bytes of a stream's body, after its head if that has not gone yet; last: and its end. */
MUST_CHECK enum err exchange_write_stream(struct exchange *x, struct span bytes, bool last);
void exchange_pass(struct exchange *x); /* the provider's own error, as it came: once; ends the exchange */
void exchange_hold_passed(struct exchange *x);
/* Ends a stream after first content with an error event. by_us: not the model's fault. message may be NULL. */
void exchange_truncated(struct exchange *x, bool by_us, const char *message);
void exchange_reckon(struct exchange *x); /* usage and cost as known now */

/* exchange_settle.c */
void exchange_settle(struct exchange *x, enum outcome outcome, const char *error);

/* exchange_shadow.c */
/* Copies of a request whose body is whole, one for each shadow that wants it and finds room; NULL: none. */
struct exchange_shadow *exchange_shadows_take(struct exchange *x);
void exchange_shadows_send(struct core *core, struct exchange_shadow *list); /* takes the list over */
/* What this worker has to do for clients leaves nothing for shadows. */
bool exchange_shadows_yield(const struct core *core);
/* Ends this one for that: cancelled, which says nothing of its arm. */
void exchange_shadow_yields(struct exchange *x);
/* True: a shadow that its budget had no room for. It is counted nowhere; now and then one leaves a record. */
bool exchange_shadow_unsent(const struct exchange *x);
/* Says what it is in its record, and sets its budget right. */
void exchange_shadow_settle(struct exchange *x, struct ledger_record *record);
void exchange_shadows_close(struct core *core);

/* exchange_content.c: see proto/tables.h, struct recorded_content. All but the first only with x->content. */
void exchange_content_begin(struct exchange *x); /* the body is whole, the arm chosen: whether, and the prompt */
/* Bytes of a body that go to the client. Returns how many were kept before, for exchange_content_back. */
size_t exchange_content_sent(struct exchange *x, struct span bytes);
void exchange_content_back(struct exchange *x, size_t kept); /* they did not go after all */
void exchange_content_settle(struct exchange *x);            /* one line */

/* exchange_models.c */
void exchange_models(struct exchange *x);

/* exchange_feedback.c */
#define EXCHANGE_FEEDBACK_BYTES (8u << 10) /* a vote is short: nobody buys a large body with it */
void exchange_feedback(struct exchange *x);
