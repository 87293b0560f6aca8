/* fake_control.h - what a test asks the simulated provider itself: POST /__fake/config, POST /__fake/reset, GET
 * /__fake/stats, GET /__fake/requests; and the counting and keeping that these report. */
#pragma once
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"

struct fake_conn;
struct fake_server;

/* Counts the request and keeps a copy. path: without its query. */
void fake_control_record(struct fake_conn *conn, struct span path);
/* Answers a control request: the JSON body, and its status. */
unsigned fake_control_answer(struct fake_conn *conn, struct span path, struct buf *body);
void fake_control_release(struct fake_server *server);
