/* The curl lane: libcurl's multi interface on libuv's loop.
 *
 * Three rules keep it sound, each from a known trap (curl issues 3537, 2393):
 *   - curl's timer callback only arms a uv timer, it never calls curl;
 *   - the owner's pause, resume and cancel inside curl's callbacks only set flags, obeyed when curl has returned;
 *   - a failed curl_multi_socket_action ends every try and rebuilds the multi handle. */
#include "dataplane/upstream/lane.h"
#include "common/buf.h"
#include "common/fault.h"
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define RESPONSE_HEADERS_MAX 128u /* more is an attack or a fault; counted against the head limit as well */
#define COPIED_BODY_BYTES_MAX                                                                                          \
    (60u << 10)                  /* bodies up to here go out with the head in one write (curl's limit: 64 KiB) */
#define EASY_POOL_MAX        64u /* idle handles kept: a handle costs some 20 KiB */
#define IDLE_CONNECTION_S    60L /* servers close idle connections after a minute or more: be first */
#define RECEIVE_BUFFER_BYTES 65536L

struct
try {
    struct upstream base;        /* first */
    struct try *next, *previous; /* all of the lane's */
    struct upstream_events events;
    void *user;
    CURL *easy;
    struct curl_slist *headers;
    const struct span *parts;
    unsigned part_count, part_at;
    size_t part_offset;
    char *copied_body;
    struct buf head; /* lower-cased names and values of the response's head */
    struct head_line {
        size_t name, name_len, value, value_len;
    } lines[RESPONSE_HEADERS_MAX];
    unsigned line_count;
    size_t head_bytes, head_bytes_max;
    enum upstream_phase phase;
    enum err failure; /* ours, before curl's */
    bool want_pause;  /* the owner's wish */
    bool is_paused;   /* what curl was told */
    bool cancelled;   /* no callback any more */
    bool finished;    /* done was given; freed next */
    bool tls;
    char error[CURL_ERROR_SIZE];
};

struct watch { /* one socket that curl wants watched */
    uv_poll_t poll;
    struct curl_lane *lane;
    curl_socket_t fd;
};

struct curl_lane {
    struct upstream_lane base; /* first */
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;   /* curl's */
    uv_timer_t errands; /* 0 ms: what had to wait until curl returned */
    struct try *tries;
    unsigned active, connections_max;
    long idle_max;
    char *ca_file;
    CURL *pool[EASY_POOL_MAX];
    unsigned pool_count;
    uint64_t connects, reused;
    unsigned in_curl; /* depth of calls into curl */
    unsigned open_handles;
    bool closing;
};

static struct curl_lane *lane_of(const struct try *t)
{
    return (struct curl_lane *)(void *)t->base.lane;
}

static void run_errands_soon(struct curl_lane *lane);
static void collect_finished(struct curl_lane *lane);

/* ---- a try's life ---- */

static void link_try(struct curl_lane *lane, struct try *t)
{
    t->next = lane->tries;
    if (t->next)
        t->next->previous = t;
    lane->tries = t;
    lane->active++;
}

static void recycle_easy(struct curl_lane *lane, CURL *easy)
{
    if (lane->closing || lane->pool_count == EASY_POOL_MAX) {
        curl_easy_cleanup(easy);
        return;
    }
    curl_easy_reset(easy); /* keeps its buffers; live connections belong to the multi */
    lane->pool[lane->pool_count++] = easy;
}

/* Takes the try out of curl and frees it. Never inside a curl callback. */
static void free_try(struct try *t)
{
    struct curl_lane *lane = lane_of(t);
    REQUIRE(lane->in_curl == 0);
    if (t->previous)
        t->previous->next = t->next;
    else
        lane->tries = t->next;
    if (t->next)
        t->next->previous = t->previous;
    lane->active--;
    lane->in_curl++;
    curl_multi_remove_handle(lane->multi, t->easy);
    lane->in_curl--;
    recycle_easy(lane, t->easy);
    curl_slist_free_all(t->headers);
    free(t->copied_body);
    buf_release(&t->head);
    free(t);
}

static void finish(struct try *t, enum err err, const char *why)
{
    struct upstream_result result = { .err = err, .phase = t->phase, .why = why };
    struct curl_certinfo *certificates = NULL;
    if (t->tls && curl_easy_getinfo(t->easy, CURLINFO_CERTINFO, &certificates) == CURLE_OK && certificates &&
        certificates->num_of_certs > 0) {
        for (const struct curl_slist *row = certificates->certinfo[0]; row; row = row->next) {
            if (strncasecmp(row->data, "Expire date:", 12) == 0) {
                const time_t at = curl_getdate(row->data + 12, NULL);
                result.certificate_expires_at_ms = at > 0 ? (int64_t)at * 1000 : 0;
            }
        }
    }
    t->finished = true;
    if (!t->cancelled)
        t->events.done(t->user, &result);
    free_try(t);
}

/* curl's words in ours. */
static enum err translate(CURLcode code)
{
    switch (code) {
    case CURLE_OK:
        return OK;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return ERR_NOT_FOUND;
    case CURLE_COULDNT_CONNECT:
        return ERR_REFUSED;
    case CURLE_OPERATION_TIMEDOUT:
        return ERR_TIMEOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        return ERR_DENIED;
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_HTTP2_STREAM:
        return ERR_CLOSED;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2:
        return ERR_SYNTAX;
    case CURLE_OUT_OF_MEMORY:
        return ERR_NOMEM;
    case CURLE_FILESIZE_EXCEEDED:
        return ERR_TOO_LARGE;
    default:
        return ERR_IO;
    }
}

/* ---- curl's callbacks: bytes ---- */

static size_t on_read(char *out, size_t size, size_t count, void *user)
{
    struct try *t = user;
    size_t room = size * count, given = 0;
    while (room > 0 && t->part_at < t->part_count) {
        const struct span part = t->parts[t->part_at];
        const size_t n = size_min(room, part.len - t->part_offset);
        memcpy(out + given, part.ptr + t->part_offset, n);
        given += n;
        room -= n;
        t->part_offset += n;
        if (t->part_offset == part.len) {
            t->part_at++;
            t->part_offset = 0;
        }
    }
    if (t->part_at == t->part_count && t->phase == UPSTREAM_SENDING)
        t->phase = UPSTREAM_SENT;
    return given;
}

/* A reused connection turned out dead before a byte came back: curl sends again on a fresh one, from the start. */
static int on_seek(void *user, curl_off_t offset, int origin)
{
    struct try *t = user;
    if (origin != SEEK_SET || offset != 0 || t->phase >= UPSTREAM_HEAD)
        return CURL_SEEKFUNC_FAIL;
    t->part_at = 0;
    t->part_offset = 0;
    return CURL_SEEKFUNC_OK;
}

static int on_request(void *user, UNUSED char *to, UNUSED char *from, UNUSED int to_port, UNUSED int from_port)
{
    struct try *t = user;
    if (t->phase == UPSTREAM_CONNECTING)
        t->phase = t->parts ? UPSTREAM_SENDING : UPSTREAM_SENT;
    return CURL_PREREQFUNC_OK;
}

static bool add_line(struct try *t, struct span name, struct span value)
{
    if (t->line_count == RESPONSE_HEADERS_MAX) {
        t->failure = ERR_TOO_MANY;
        return false;
    }
    struct head_line *line = &t->lines[t->line_count];
    *line = (struct head_line){ .name = t->head.len, .name_len = name.len };
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.ptr[i];
        if (buf_append_byte(&t->head, c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c) != OK)
            return false;
    }
    line->value = t->head.len;
    line->value_len = value.len;
    if (buf_append(&t->head, value) != OK)
        return false;
    t->line_count++;
    return true;
}

static void give_head(struct try *t, unsigned status)
{
    struct upstream_header headers[RESPONSE_HEADERS_MAX];
    const struct span text = buf_span(&t->head);
    long fresh = 0;
    curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &fresh);
    for (unsigned i = 0; i < t->line_count; i++) {
        const struct head_line *line = &t->lines[i];
        headers[i] = (struct upstream_header){ .name = span_of(text.ptr + line->name, line->name_len),
                                               .value = span_of(text.ptr + line->value, line->value_len) };
    }
    if (fresh > 0)
        lane_of(t)->connects++;
    else
        lane_of(t)->reused++;
    t->phase = UPSTREAM_HEAD;
    const struct upstream_head head = {
        .status = status, .headers = headers, .header_count = t->line_count, .reused = fresh == 0
    };
    if (!t->cancelled)
        t->events.head(t->user, &head);
    buf_release(&t->head);
}

/* One line of a head at a time; a new status line begins anew (1xx came before), an empty one ends it. */
static size_t on_header(char *data, size_t size, size_t count, void *user)
{
    struct try *t = user;
    const size_t bytes = size * count;
    struct span line = span_of(data, bytes), name;
    if (t->cancelled)
        return 0;
    if (t->phase >= UPSTREAM_HEAD)
        return bytes; /* trailers are dropped */
    t->head_bytes += bytes;
    if (t->head_bytes > t->head_bytes_max) {
        t->failure = ERR_TOO_LARGE;
        return 0;
    }
    while (line.len > 0 && (line.ptr[line.len - 1] == '\n' || line.ptr[line.len - 1] == '\r'))
        line.len--;
    if (span_starts(line, SPAN("HTTP/"))) {
        buf_clear(&t->head);
        t->line_count = 0;
        return bytes;
    }
    if (line.len == 0) {
        long status = 0;
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 200)
            give_head(t, (unsigned)status);
        return t->cancelled ? 0 : bytes;
    }
    if (span_split(&line, ':', &name) && line.ptr && !add_line(t, name, span_trim(line))) {
        t->failure = t->failure ? t->failure : ERR_TOO_LARGE;
        return 0;
    }
    return bytes;
}

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    struct try *t = user;
    const size_t bytes = size * count;
    if (t->cancelled)
        return 0;
    if (t->want_pause) { /* curl keeps these bytes and gives them again after the resume */
        t->is_paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    t->phase = UPSTREAM_BODY;
    t->events.body(t->user, span_of(data, bytes));
    return t->cancelled ? 0 : bytes;
}

static curl_socket_t on_open_socket(UNUSED void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    if (purpose != CURLSOCKTYPE_IPCXN || fault_hit(FAULT_CONNECT))
        return CURL_SOCKET_BAD;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* ---- curl's callbacks: sockets and time ---- */

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *watch = handle->data;
    struct curl_lane *lane = watch->lane;
    free(watch);
    if (--lane->open_handles == 0 && lane->closing)
        free(lane);
}

static void act(struct curl_lane *lane, curl_socket_t fd, int events);

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct watch *watch = poll->data;
    int mask = 0;
    if (status < 0)
        mask = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        mask |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        mask |= CURL_CSELECT_OUT;
    act(watch->lane, watch->fd, mask);
}

static int on_socket(UNUSED CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user)
{
    struct curl_lane *lane = user;
    struct watch *watch = socket_user;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            curl_multi_assign(lane->multi, fd, NULL);
            uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        }
        return 0;
    }
    if (!watch) {
        watch = fault_calloc(1, sizeof(*watch));
        if (!watch)
            return -1;
        watch->lane = lane;
        watch->fd = fd;
        if (uv_poll_init_socket(lane->loop, &watch->poll, fd) != 0) {
            free(watch);
            return -1;
        }
        watch->poll.data = watch;
        lane->open_handles++;
        curl_multi_assign(lane->multi, fd, watch);
    }
    const int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&watch->poll, events, on_ready) == 0 ? 0 : -1;
}

static void on_timeout(uv_timer_t *timer)
{
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timer(UNUSED CURLM *multi, long timeout_ms, void *user)
{
    struct curl_lane *lane = user;
    if (lane->closing)
        return 0;
    if (timeout_ms < 0)
        uv_timer_stop(&lane->timer);
    else
        uv_timer_start(&lane->timer, on_timeout, (uint64_t)timeout_ms, 0);
    return 0;
}

/* ---- driving ---- */

static CURLM *new_multi(struct curl_lane *lane)
{
    CURLM *multi = curl_multi_init();
    if (!multi)
        return NULL;
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, lane);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, lane);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, lane->idle_max);
    curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    return multi;
}

/* The multi handle cannot be trusted any more: every try ends, a new one begins. */
static void rebuild(struct curl_lane *lane)
{
    while (lane->tries)
        finish(lane->tries, ERR_IO, "the transfer engine failed and was rebuilt");
    lane->in_curl++;
    curl_multi_cleanup(lane->multi);
    lane->in_curl--;
    lane->multi = new_multi(lane);
    REQUIRE(lane->multi);
}

static void act(struct curl_lane *lane, curl_socket_t fd, int events)
{
    int running;
    if (lane->closing)
        return;
    lane->in_curl++;
    const CURLMcode code = curl_multi_socket_action(lane->multi, fd, events, &running);
    lane->in_curl--;
    if (code != CURLM_OK && code != CURLM_BAD_SOCKET)
        rebuild(lane);
    else
        collect_finished(lane);
}

static struct try *next_finished(struct curl_lane *lane, CURLcode *ret_code)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(lane->multi, &left))) {
        struct try *t = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        *ret_code = message->data.result;
        if (curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t) == CURLE_OK && t)
            return t;
    }
    return NULL;
}

static void collect_finished(struct curl_lane *lane)
{
    struct try *t;
    CURLcode code;
    while ((t = next_finished(lane, &code))) {
        const enum err err = t->failure ? t->failure : translate(code);
        finish(t, err, err == OK ? "" : t->error[0] ? t->error : curl_easy_strerror(code));
    }
}

/* Cancels and resumes that were asked for inside curl's callbacks or the owner's. */
static void on_errands(uv_timer_t *timer)
{
    struct curl_lane *lane = timer->data;
    struct try *t = lane->tries;
    while (t) {
        struct try *next = t->next;
        if (t->cancelled) {
            free_try(t);
        } else if (t->is_paused && !t->want_pause) {
            t->is_paused = false;
            lane->in_curl++;
            curl_easy_pause(t->easy, CURLPAUSE_CONT); /* may call on_body */
            lane->in_curl--;
            next = t->next; /* t is still there: only errands free while curl is not entered */
        }
        t = next;
    }
    collect_finished(lane);
}

static void run_errands_soon(struct curl_lane *lane)
{
    if (!lane->closing)
        uv_timer_start(&lane->errands, on_errands, 0, 0);
}

/* ---- starting ---- */

static bool add_header(struct try *t, const char *line)
{
    struct curl_slist *grown = curl_slist_append(t->headers, line);
    if (!grown)
        return false;
    t->headers = grown;
    return true;
}

static enum err set_headers(struct try *t, const struct upstream_request *request)
{
    struct buf line = BUF_INIT(64u << 10);
    enum err err = OK;
    /* What curl would add by itself is switched off; ours follow. */
    if (!add_header(t, "Expect:") || !add_header(t, "Accept:") || !add_header(t, "Content-Type:"))
        return ERR_NOMEM;
    for (unsigned i = 0; !err && i < request->header_count; i++) {
        const struct upstream_header *h = &request->headers[i];
        buf_clear(&line);
        err = buf_append(&line, h->name);
        if (!err)
            err = h->value.len ? buf_append_cstr(&line, ": ") : buf_append_byte(&line, ';');
        if (!err)
            err = buf_append(&line, h->value);
        const char *text = err ? NULL : buf_cstr(&line);
        if (!err && (!text || !add_header(t, text)))
            err = ERR_NOMEM;
    }
    /* The last line may hold the credential. */
    if (line.data)
        explicit_bzero(line.data, line.cap);
    buf_release(&line);
    if (!err)
        curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    return err;
}

static enum err set_body(struct try *t, const struct upstream_request *request)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < request->body_part_count; i++) {
        if (!size_add(bytes, request->body_parts[i].len, &bytes))
            return ERR_TOO_LARGE;
    }
    if (span_eq(request->method, SPAN("GET"))) {
        curl_easy_setopt(t->easy, CURLOPT_HTTPGET, 1L);
        return OK;
    }
    if (span_eq(request->method, SPAN("HEAD"))) {
        curl_easy_setopt(t->easy, CURLOPT_NOBODY, 1L);
        return OK;
    }
    curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)bytes);
    if (bytes <= COPIED_BODY_BYTES_MAX) {
        t->copied_body = fault_malloc(bytes + 1);
        if (!t->copied_body)
            return ERR_NOMEM;
        size_t at = 0;
        for (unsigned i = 0; i < request->body_part_count; i++) {
            if (request->body_parts[i].len)
                memcpy(t->copied_body + at, request->body_parts[i].ptr, request->body_parts[i].len);
            at += request->body_parts[i].len;
        }
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->copied_body);
        return OK;
    }
    t->parts = request->body_parts;
    t->part_count = request->body_part_count;
    curl_easy_setopt(t->easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(t->easy, CURLOPT_READDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(t->easy, CURLOPT_SEEKDATA, t);
    return OK;
}

static enum err set_destination(struct try *t, const struct upstream_request *request)
{
    const struct provider *p = request->provider;
    struct buf url = BUF_INIT(16u << 10);
    const bool ipv6 = span_find_byte(p->host, ':') != SIZE_MAX;
    enum err err = buf_printf(&url, "%s://%s" SPAN_FMT "%s:%u", p->tls ? "https" : "http", ipv6 ? "[" : "",
                              SPAN_ARG(p->host), ipv6 ? "]" : "", (unsigned)p->port);
    if (!err)
        err = buf_append(&url, request->path);
    const char *text = err ? NULL : buf_cstr(&url);
    if (!err && (!text || curl_easy_setopt(t->easy, CURLOPT_URL, text) != CURLE_OK))
        err = ERR_NOMEM;
    buf_release(&url);
    /* The empty string also stops proxies named by the environment. */
    curl_easy_setopt(t->easy, CURLOPT_PROXY, p->proxy.len ? p->proxy.ptr : "");
    curl_easy_setopt(t->easy, CURLOPT_HTTP_VERSION,
                     p->http2 ? (long)CURL_HTTP_VERSION_2TLS : (long)CURL_HTTP_VERSION_1_1);
    return err;
}

static void set_transport(struct curl_lane *lane, struct try *t, const struct upstream_request *request)
{
    CURL *easy = t->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->error);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER_BYTES);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, IDLE_CONNECTION_S);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)request->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_request);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, t);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    if (t->tls) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
        curl_easy_setopt(easy, CURLOPT_CERTINFO, 1L);
        if (lane->ca_file)
            curl_easy_setopt(easy, CURLOPT_CAINFO, lane->ca_file);
    }
}

static enum err lane_start(struct upstream_lane *base, const struct upstream_request *request,
                           const struct upstream_events *events, void *user, struct upstream **ret)
{
    struct curl_lane *lane = (struct curl_lane *)(void *)base;
    if (lane->active >= lane->connections_max)
        return ERR_TOO_MANY;
    struct try *t = fault_calloc(1, sizeof(*t));
    if (!t)
        return ERR_NOMEM;
    t->base.lane = base;
    t->events = *events;
    t->user = user;
    t->tls = request->provider->tls;
    t->head_bytes_max = request->response_head_bytes_max;
    buf_init(&t->head, t->head_bytes_max);
    t->easy = lane->pool_count ? lane->pool[--lane->pool_count] : curl_easy_init();
    enum err err = t->easy ? OK : ERR_NOMEM;
    if (!err) {
        set_transport(lane, t, request);
        err = set_destination(t, request);
    }
    if (!err)
        err = set_headers(t, request);
    if (!err)
        err = set_body(t, request);
    if (!err) {
        lane->in_curl++;
        err = curl_multi_add_handle(lane->multi, t->easy) == CURLM_OK ? OK : ERR_NOMEM;
        lane->in_curl--;
    }
    if (err) {
        if (t->easy)
            recycle_easy(lane, t->easy);
        curl_slist_free_all(t->headers);
        free(t->copied_body);
        free(t);
        return err;
    }
    link_try(lane, t);
    *ret = &t->base;
    return OK;
}

/* ---- the owner's calls ---- */

static struct try *try_of(const struct upstream *upstream)
{
    return (struct try *)(void *)upstream;
}

static void lane_pause(struct upstream *upstream)
{
    try_of(upstream)->want_pause = true; /* on_body tells curl when bytes come */
}

static void lane_resume(struct upstream *upstream)
{
    struct try *t = try_of(upstream);
    t->want_pause = false;
    if (t->is_paused)
        run_errands_soon(lane_of(t));
}

static void lane_cancel(struct upstream *upstream)
{
    struct try *t = try_of(upstream);
    struct curl_lane *lane = lane_of(t);
    if (t->finished) /* inside done: freed right after it */
        return;
    t->cancelled = true;
    if (lane->in_curl)
        run_errands_soon(lane); /* the callback that we are in makes curl give up; the errand frees */
    else
        free_try(t);
}

static enum upstream_phase lane_phase(const struct upstream *upstream)
{
    return try_of(upstream)->phase;
}

static size_t lane_buffered(const struct upstream *upstream)
{
    const struct try *t = try_of(upstream);
    return t->is_paused ? (size_t)RECEIVE_BUFFER_BYTES : 0;
}

static bool lane_release_body(struct upstream *upstream)
{
    struct try *t = try_of(upstream);
    if (!t->parts)
        return true; /* copied, or none */
    return t->phase >= UPSTREAM_HEAD && t->part_at == t->part_count;
}

static void lane_stats(const struct upstream_lane *base, struct upstream_lane_stats *ret)
{
    const struct curl_lane *lane = (const struct curl_lane *)(const void *)base;
    *ret = (struct upstream_lane_stats){ .connects = lane->connects, .reused = lane->reused, .active = lane->active };
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct curl_lane *lane = handle->data;
    if (--lane->open_handles == 0)
        free(lane);
}

static void lane_close(struct upstream_lane *base)
{
    struct curl_lane *lane = (struct curl_lane *)(void *)base;
    REQUIRE(lane->in_curl == 0);
    lane->closing = true;
    while (lane->tries) {
        lane->tries->cancelled = true;
        free_try(lane->tries);
    }
    while (lane->pool_count)
        curl_easy_cleanup(lane->pool[--lane->pool_count]);
    lane->in_curl++;
    curl_multi_cleanup(lane->multi); /* closes the idle connections: their watches go by on_socket */
    lane->in_curl--;
    free(lane->ca_file);
    lane->ca_file = NULL;
    uv_close((uv_handle_t *)&lane->timer, on_timer_closed);
    uv_close((uv_handle_t *)&lane->errands, on_timer_closed);
}

static const struct upstream_ops curl_ops = {
    .start = lane_start,
    .pause = lane_pause,
    .resume = lane_resume,
    .cancel = lane_cancel,
    .phase = lane_phase,
    .buffered = lane_buffered,
    .release_body = lane_release_body,
    .stats = lane_stats,
    .close = lane_close,
};

enum err curl_lane_new(const struct upstream_lane_options *options, struct upstream_lane **ret)
{
    static bool initialised;
    if (!initialised && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return ERR_NOMEM;
    initialised = true;
    struct curl_lane *lane = fault_calloc(1, sizeof(*lane));
    if (!lane)
        return ERR_NOMEM;
    lane->base.ops = &curl_ops;
    lane->loop = options->loop;
    lane->connections_max = options->connections_max;
    lane->idle_max = (long)options->connections_idle_max;
    lane->ca_file = options->ca_file ? strdup(options->ca_file) : NULL;
    lane->multi = new_multi(lane);
    if (!lane->multi || (options->ca_file && !lane->ca_file)) {
        if (lane->multi)
            curl_multi_cleanup(lane->multi);
        free(lane->ca_file);
        free(lane);
        return ERR_NOMEM;
    }
    uv_timer_init(lane->loop, &lane->timer);
    uv_timer_init(lane->loop, &lane->errands);
    lane->timer.data = lane->errands.data = lane;
    lane->open_handles = 2;
    *ret = &lane->base;
    return OK;
}
