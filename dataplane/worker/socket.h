/* socket.h - a socket of a client or of a listener: TCP or Unix, which libuv keeps apart. */
#pragma once
#include "common/base.h"
#include <uv.h>

union socket {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

static inline bool socket_is_tcp(const union socket *socket)
{
    return socket->handle.type == UV_TCP;
}
/* tcp: else a Unix socket. data: of its callbacks. */
static inline void socket_init(union socket *socket, uv_loop_t *loop, bool tcp, void *data)
{
    if (tcp)
        REQUIRE(uv_tcp_init(loop, &socket->tcp) == 0);
    else
        REQUIRE(uv_pipe_init(loop, &socket->pipe, 0) == 0);
    socket->handle.data = data;
}
