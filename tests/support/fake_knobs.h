/* fake_knobs.h - everything about the simulated provider that can be turned: by option, by POST /__fake/config, and
 * (the part in struct fake_shape) by one request for itself. One parser serves all three: a name and a text value. */
#pragma once
#include "common/base.h"
#include "common/digest.h"
#include "common/err.h"
#include "common/span.h"

#define FAKE_NAME_MAX   64
#define FAKE_TEXT_MAX   2048
#define FAKE_TOKENS_MAX 1000000             /* stops a mistyped directive from making an answer of gigabytes */
#define FAKE_BYTES_MAX  (64u * 1024 * 1024) /* the same for bighead and hugeevent */
#define FAKE_FOREVER_US (86400u * UINT64_C(1000000))

/* Microseconds, both ends included; a draw is uniform. */
struct fake_range {
    uint64_t low_us;
    uint64_t high_us;
};

enum fake_fault_kind {
    FAKE_FAULT_NONE,
    FAKE_FAULT_REFUSE,      /* RST instead of an answer */
    FAKE_FAULT_HANG,        /* no byte, ever */
    FAKE_FAULT_STATUS,      /* an HTTP error status with its OpenAI error object; arg: Retry-After seconds */
    FAKE_FAULT_OVERLOAD200, /* a 200 whose first event (or body) is an overloaded_error */
    FAKE_FAULT_ERROR200,    /* a 200 with a JSON error object, also where a stream was asked for */
    FAKE_FAULT_CUT,         /* FIN in the middle of a chunk after arg tokens */
    FAKE_FAULT_RESET,       /* RST after arg tokens */
    FAKE_FAULT_NODONE,      /* the body ends well-framed after arg tokens, without finish_reason and [DONE] */
    FAKE_FAULT_ERROREVENT,  /* an error event after arg tokens, then the end */
    FAKE_FAULT_SILENT,      /* nothing more after arg tokens; the connection stays */
    FAKE_FAULT_EMPTY,       /* a 200 with nothing; arg 1: role and [DONE] only */
    FAKE_FAULT_GARBAGE,     /* a 200 with bytes that are neither JSON nor SSE; arg 1: no HTTP either */
    FAKE_FAULT_SLOWHEAD,    /* one byte of the head each arg milliseconds */
    FAKE_FAULT_NOUSAGE,     /* no usage anywhere */
    FAKE_FAULT_REDIRECT,    /* 302 to /redirected */
    FAKE_FAULT_SETCOOKIE,   /* headers that must not reach a client */
    FAKE_FAULT_BIGHEAD,     /* a header of arg bytes (default 64 KiB) */
    FAKE_FAULT_HUGEEVENT,   /* the first token is arg bytes long (default 1 MiB) */
    FAKE_FAULT_DIE,         /* the process exits after arg tokens */
    FAKE_FAULT_KINDS
};

struct fake_fault {
    enum fake_fault_kind kind;
    unsigned status; /* FAKE_FAULT_STATUS only */
    bool has_arg;
    uint64_t arg;
    double probability; /* of each request, 0..1 */
    uint64_t remaining; /* requests still to be hit; UINT64_MAX: no end */
};

/* What one request may set for itself. */
struct fake_shape {
    struct fake_range ttft;     /* until the first token */
    struct fake_range token;    /* between tokens; 0: as fast as the peer takes them */
    struct fake_range fault_ms; /* until the answer of a fault that answers at once */
    uint64_t tokens;            /* of an answer without max_tokens */
    uint64_t cached;            /* reported as prompt_tokens_details.cached_tokens */
    uint64_t reasoning;         /* reported as reasoning_tokens and counted in completion_tokens; not sent */
    uint64_t think;             /* sent as delta.reasoning_content before the answer, and reported too */
    uint64_t prompt;            /* reported prompt_tokens; 0: counted from the request */
    struct fake_fault fault;
};

struct fake_knobs {
    struct fake_shape shape;
    char name[FAKE_NAME_MAX];        /* system_fingerprint and the first word of answers; may be empty */
    char models[FAKE_TEXT_MAX];      /* comma-separated */
    char require_key[FAKE_TEXT_MAX]; /* comma-separated, any of them is accepted; empty: no key needed */
    bool strict_models;              /* 404 for a model that is not listed */
    uint64_t keep;                   /* requests kept for GET /__fake/requests */
    struct prng prng;                /* jitter and fault probability; set by "seed" */
};

void fake_knobs_init(struct fake_knobs *knobs);
/* key: ttft_ms, token_ms, fault_ms ("20", "0.5", "10-30"), tokens, cached, reasoning, think, prompt, fault ("none"
 * clears). ERR_NOT_FOUND: no such key. ERR_INVALID: not such a value; *shape is unchanged. */
MUST_CHECK enum err fake_shape_set(struct fake_shape *shape, struct span key, struct span value);
/* Those, and name, models, require_key, strict_models, keep, seed. '-' in a key counts as '_'. */
MUST_CHECK enum err fake_knobs_set(struct fake_knobs *knobs, struct span key, struct span value);
/* Applies each directive in text: "[[fake key=value ...]]", or "[[fake:WHO key=value ...]]" when WHO is one of the two
 * names. The first error is returned, with *ret_bad the part that is wrong. */
MUST_CHECK enum err fake_shape_directives(struct fake_shape *shape, struct span text, struct span name,
                                          struct span model, struct span *ret_bad);
/* "500", "429:2", "cut:5", "hang@0.03", "503x2". ERR_INVALID. */
MUST_CHECK enum err fake_fault_parse(struct span text, struct fake_fault *ret);
const char *fake_fault_name(enum fake_fault_kind kind);
/* True when this request is to be hit; counts down. */
bool fake_fault_roll(struct fake_fault *fault, struct prng *prng);
uint64_t fake_range_draw(struct fake_range range, struct prng *prng); /* microseconds */
