/* fake_play.h - one request's answer as it is played: when the next token is due, how far it is, and
 * how it is to go wrong. Endpoints, with and without /v1: POST chat/completions, completions, embeddings; GET models,
 * models/{id}; and Azure's POST /openai/deployments/{name}/... */
#pragma once
#include "tests/support/fake_answer.h"

struct fake_conn;

enum fake_play_state {
    FAKE_PLAY_IDLE,    /* no request, or its answer is complete */
    FAKE_PLAY_WAITING, /* the time of a whole answer, or of a fault, runs */
    FAKE_PLAY_STREAM,  /* tokens are sent as they fall due */
    FAKE_PLAY_SILENT,  /* nothing more will be sent */
};

struct fake_play {
    enum fake_play_state state;
    bool hit;         /* shape.fault applies to this request */
    bool fault_due;   /* waiting to misbehave, not to answer */
    bool stream_open; /* counted in streams_open */
    bool head_sent;
    struct fake_answer answer;
    uint64_t step;   /* reasoning and content tokens sent */
    uint64_t due_us; /* of the next one; monotonic */
};

/* A whole request has come. */
void fake_play_start(struct fake_conn *conn);
void fake_play_tick(struct fake_conn *conn);    /* the timer fired */
void fake_play_drained(struct fake_conn *conn); /* the peer has taken everything */
void fake_play_gone(struct fake_conn *conn);    /* the connection ends before the answer does, or after it */
void fake_play_release(struct fake_play *play);
