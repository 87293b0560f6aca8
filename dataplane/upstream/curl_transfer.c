#include "dataplane/upstream/curl_internal.h"
#include "common/fault.h"
#include <sys/socket.h>

#define COPIED_BODY_BYTES_MAX  (60u << 10) /* bodies up to here go out with the head in one write (curl: 64 KiB) */
#define REQUEST_LINE_BYTES_MAX (64u << 10) /* one header or the URL; a client's whole head is smaller */
#define IDLE_CONNECTION_S                                                                                              \
    60L /* many servers close idle connections after a minute or more: do not send on one that may be closing */

bool transfer_account(struct transfer *t)
{
    const struct curl_lane *lane = transfer_lane(t);
    const size_t paused = t->http2 ? HTTP2_PAUSED_BYTES : (size_t)RECEIVE_BUFFER_BYTES;
    const size_t before = t->accounted;
    t->accounted = t->copied_bytes + t->head.cap + (t->is_paused ? paused : 0);
    return !lane->account || lane->account(lane->account_user, before, t->accounted);
}

/* ---- curl's callbacks ---- */

static size_t on_read(char *out, size_t size, size_t count, void *user)
{
    struct transfer *t = user;
    size_t room = size * count, given = 0;
    if (t->cancelled) /* curl may ask once more before the errand frees; the body is gone */
        return CURL_READFUNC_ABORT;
    while (room > 0 && t->part_at < t->part_count) {
        const struct span part = t->parts[t->part_at];
        const size_t n = size_min(room, part.len - t->part_offset);
        if (n)
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
    struct transfer *t = user;
    if (origin != SEEK_SET || offset != 0 || t->phase >= UPSTREAM_HEAD || t->cancelled)
        return CURL_SEEKFUNC_FAIL;
    t->part_at = 0;
    t->part_offset = 0;
    return CURL_SEEKFUNC_OK;
}

static int on_request(void *user, UNUSED char *to, UNUSED char *from, UNUSED int to_port, UNUSED int from_port)
{
    struct transfer *t = user;
    if (t->phase == UPSTREAM_CONNECTING)
        t->phase = t->parts ? UPSTREAM_SENDING : UPSTREAM_SENT;
    return CURL_PREREQFUNC_OK;
}

static bool fail(struct transfer *t, enum err err, const char *why)
{
    t->failure = err;
    t->failure_why = why;
    return false;
}

static bool add_line(struct transfer *t, struct span name, struct span value)
{
    if (t->line_count == RESPONSE_HEADERS_MAX)
        return fail(t, ERR_TOO_LARGE, "too many headers in the response");
    struct head_line *line = &t->lines[t->line_count];
    *line = (struct head_line){
        .name = t->head.len, .name_len = name.len, .value = t->head.len + name.len, .value_len = value.len
    };
    char *at;
    /* Never full: head_bytes_max was checked for more bytes than these. */
    if (buf_reserve(&t->head, name.len + value.len, &at) != OK)
        return fail(t, ERR_NOMEM, "out of memory for the response's head");
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.ptr[i];
        at[i] = c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
    }
    if (value.len)
        memcpy(at + name.len, value.ptr, value.len);
    buf_commit(&t->head, name.len + value.len);
    t->line_count++;
    return true;
}

/* RFC 9112 section 6.3: lengths that differ leave the message's end to guessing, and curl 7.88 takes the last. */
static bool lengths_agree(struct transfer *t, struct span value)
{
    const struct span text = buf_span(&t->head);
    for (unsigned i = 0; i < t->line_count; i++) {
        const struct head_line *line = &t->lines[i];
        if (span_eq(span_of(text.ptr + line->name, line->name_len), SPAN("content-length")) &&
            !span_eq(span_of(text.ptr + line->value, line->value_len), value))
            return fail(t, ERR_SYNTAX, "two lengths in the response");
    }
    return true;
}

static void give_head(struct transfer *t, unsigned status)
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
        transfer_lane(t)->connects++;
    else
        transfer_lane(t)->reused++;
    t->phase = UPSTREAM_HEAD;
    const struct upstream_head head = {
        .status = status, .headers = headers, .header_count = t->line_count, .reused = fresh == 0
    };
    if (!t->cancelled)
        t->events.head(t->user, &head);
    buf_release(&t->head);
    (void)transfer_account(t);
}

static const char head_too_large[] = "the response's head is too large";

/* One line of a head at a time; a new status line begins anew (1xx came before), an empty one ends it. */
static size_t on_header(char *data, size_t size, size_t count, void *user)
{
    struct transfer *t = user;
    const size_t bytes = size * count;
    struct span line = span_of(data, bytes), name;
    if (t->cancelled)
        return 0;
    if (t->phase >= UPSTREAM_HEAD)
        return bytes; /* trailers are dropped */
    t->head_bytes += bytes;
    if (t->head_bytes > t->head_bytes_max) {
        fail(t, ERR_TOO_LARGE, head_too_large);
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
        else if (status == 101) { /* nobody asked for it, and no answer would follow */
            fail(t, ERR_SYNTAX, "the provider changed the protocol");
            return 0;
        }
        return t->cancelled ? 0 : bytes;
    }
    if (!span_split(&line, ':', &name) || !line.ptr)
        return bytes;
    if (span_eq_nocase(name, SPAN("content-length")) && !lengths_agree(t, span_trim(line)))
        return 0;
    return add_line(t, name, span_trim(line)) ? bytes : 0;
}

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    struct transfer *t = user;
    const size_t bytes = size * count;
    if (t->cancelled)
        return 0;
    if (t->phase < UPSTREAM_HEAD) { /* curl takes what follows a 101 for a body */
        fail(t, ERR_SYNTAX, "a body without a head");
        return 0;
    }
    if (t->want_pause) { /* curl keeps these bytes and gives them again after the resume */
        t->is_paused = true;
        if (!transfer_account(t) && t->http2) {
            fail(t, ERR_FULL, "no memory is left to pause a stream of HTTP/2");
            return 0;
        }
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

/* ---- what is sent, and where ---- */

static bool add_header(struct transfer *t, const char *line)
{
    struct curl_slist *grown = curl_slist_append(t->headers, line);
    if (!grown)
        return false;
    t->headers = grown;
    return true;
}

static enum err set_headers(struct transfer *t, const struct upstream_request *request)
{
    struct buf line = BUF_INIT(REQUEST_LINE_BYTES_MAX);
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
    return err == ERR_FULL ? ERR_TOO_LARGE : err;
}

static enum err set_body(struct transfer *t, const struct upstream_request *request)
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
    REQUIRE(span_eq(request->method, SPAN("POST")));
    curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)bytes);
    if (bytes <= COPIED_BODY_BYTES_MAX) {
        t->copied_body = fault_malloc(bytes + 1);
        if (!t->copied_body)
            return ERR_NOMEM;
        t->copied_bytes = bytes + 1;
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

static enum err set_destination(struct transfer *t, const struct upstream_request *request)
{
    const struct provider *p = request->provider;
    struct buf url = BUF_INIT(REQUEST_LINE_BYTES_MAX);
    const bool ipv6 = span_find_byte(p->host, ':') != SIZE_MAX;
    enum err err = buf_printf(&url, "%s://%s" SPAN_FMT "%s:%u", p->tls ? "https" : "http", ipv6 ? "[" : "",
                              SPAN_ARG(p->host), ipv6 ? "]" : "", (unsigned)p->port);
    if (!err)
        err = buf_append(&url, request->path);
    const char *text = err ? NULL : buf_cstr(&url);
    if (!err && (!text || curl_easy_setopt(t->easy, CURLOPT_URL, text) != CURLE_OK))
        err = ERR_NOMEM;
    buf_release(&url);
    /* The empty strings also stop what the environment says of proxies. */
    if (!err && (curl_easy_setopt(t->easy, CURLOPT_PROXY, p->proxy.len ? p->proxy.ptr : "") != CURLE_OK ||
                 curl_easy_setopt(t->easy, CURLOPT_NOPROXY, "") != CURLE_OK))
        err = ERR_NOMEM;
    curl_easy_setopt(t->easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L); /* a proxy's 200 is not the provider's */
    curl_easy_setopt(t->easy, CURLOPT_HTTP_VERSION,
                     p->http2 ? (long)CURL_HTTP_VERSION_2TLS : (long)CURL_HTTP_VERSION_1_1);
    return err == ERR_FULL ? ERR_TOO_LARGE : err;
}

static enum err set_tls(struct transfer *t)
{
    const char *ca_file = transfer_lane(t)->ca_file;
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(t->easy, CURLOPT_CERTINFO, 1L);
    return ca_file && curl_easy_setopt(t->easy, CURLOPT_CAINFO, ca_file) != CURLE_OK ? ERR_NOMEM : OK;
}

/* A libcurl whose resolver is the system's knows no such option: then the system's name servers are asked. */
static enum err set_name_servers(struct transfer *t)
{
    const char *servers = transfer_lane(t)->name_servers;
    const CURLcode rc = servers ? curl_easy_setopt(t->easy, CURLOPT_DNS_SERVERS, servers) : CURLE_OK;
    return rc == CURLE_OK || rc == CURLE_UNKNOWN_OPTION || rc == CURLE_NOT_BUILT_IN ? OK : ERR_NOMEM;
}

static enum err set_transport(struct transfer *t, const struct upstream_request *request)
{
    CURL *easy = t->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* a cancel does not wait for a resolver's thread */
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->error);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER_BYTES);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, IDLE_CONNECTION_S);
    curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, transfer_lane(t)->idle_max == 0 ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)request->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_request);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, t);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK ? OK : ERR_NOMEM;
}

enum err transfer_set_up(struct transfer *t, const struct upstream_request *request)
{
    enum err err = set_transport(t, request);
    if (!err)
        err = set_name_servers(t);
    if (!err && t->tls)
        err = set_tls(t);
    if (!err)
        err = set_destination(t, request);
    if (!err)
        err = set_headers(t, request);
    return err ? err : set_body(t, request);
}

/* ---- what came of it ---- */

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

enum err transfer_result(const struct transfer *t, CURLcode code, const char **ret_why)
{
    if (t->failure) {
        *ret_why = t->failure_why;
        return t->failure;
    }
    if (code == CURLE_OK && t->phase < UPSTREAM_HEAD) {
        /* curl is content with a head cut short, and with a 101 that nobody asked for. */
        long status = 0;
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        *ret_why = status == 101 ? "an answer without a final status" : "the connection was closed within the head";
        return status == 101 ? ERR_SYNTAX : ERR_CLOSED;
    }
    if (code == CURLE_OUT_OF_MEMORY && t->phase >= UPSTREAM_SENDING && t->phase < UPSTREAM_HEAD) {
        *ret_why = "a header line too long for curl, or out of memory"; /* it says the same of both */
        return ERR_TOO_LARGE;
    }
    *ret_why = code == CURLE_OK ? "" : t->error[0] ? t->error : curl_easy_strerror(code);
    return translate(code);
}
